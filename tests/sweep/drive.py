# SPDX-License-Identifier: GPL-2.0-or-later
"""Drives one case of the fault sweep and judges it.

A source with a working guest and a destination migrate over a verbsim fabric
of their own. The fault strikes; then it is seen whether the migration ends as
it should and in time, the guest runs on, both sides let everything go, the
error names the cause, and a following migration brings all memory across.
"""
import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import tempfile
import threading
import time
from typing import Any, Dict, Iterator, List, Optional

import plan
from guest import GuestError, Workload
from plan import DESTINATION, SOURCE, Case
from qmp import QmpClosed, QmpError, QmpTimeout
from verbsim import Fabric, Stats, VerbsimError
from vmpair import FINAL_STATES, MigrationError, Vm, VmError, VmPair

WORKLOAD = Workload(memory_mib=64, random_mib=20, hot_mib=4,
                    dirty_mib_per_s=20)
# Newer than Debian 12's QEMU; both of ours have it.
MACHINE = "pc-i440fx-7.2"
ADDRESS = "127.0.0.1"
PROFILE = pathlib.Path(__file__).resolve().parent / "sweep.profile"
UNLIMITED = 1 << 40
MANY = 256                      # more events than a case has
SLOW = 12 << 20                 # bytes/s, of the first round
CRAWL = 2 << 20                 # below the guest's own rate: no end
LATER_ROUND = 2                 # passes over the dirty bitmap
REACH_SECONDS = 120             # only what hangs takes as long
ATTEMPTS = 3
CLEAN_SECONDS = 60
HOLD = "delay 500ms"            # a signal must strike while the event waits
STOP_SECONDS = 5                # a stopped source
# The shortest wait that may have blocked it is that for an address
MONITOR_SECONDS = 5
# What a busy machine may take beyond the time that the transport allows itself
SLACK_SECONDS = 15
# Of the events that librdmacm shows; stock lets it manage the queue pair.
WORDS = {
    "ours": {"answer": "CONNECT_RESPONSE", "setup": "2", "first": "3",
             "last": "2"},
    "stock": {"answer": "ESTABLISHED", "setup": "4", "first": "5",
              "last": "3"},
}

def words(kind: str) -> Dict[str, str]:
    """iWARP's connection manager always has the queue pair."""
    if "iwarp" in profile():
        return {**WORDS[kind], "answer": "ESTABLISHED"}
    return WORDS[kind]


PROBLEMS = {
    "unreached": "the fault never struck",
    "crash": "a QEMU crashed",
    "hang": "the migration does not end",
    "two": "two guests run",
    "none": "no guest is left that could run on",
    "guest": "the source's guest does not run on",
    "broke": "it failed, though it should survive",
    "unnoticed": "it completed, though it cannot have",
    "damage": "the guest's memory is damaged",
    "destination": "the destination does not notice",
    "leak": "verbs objects or pinned memory stay behind",
    "error": "no error names the cause",
    "silent": "query-migrate does not say what the source waits for",
    "monitor": f"the monitor was blocked for more than {MONITOR_SECONDS} s",
    "next": "a following migration fails",
}


class Stop(Exception):
    """The case cannot go on; its problems are noted."""


@dataclasses.dataclass
class Result:
    """What came of a case; kept as JSON."""
    qemu: str
    case: List[str]             # fault, phase, side
    ended: str = "none"         # failed, completed, hang ...
    seconds: float = 0.0        # from the fault to the end, at the source
    destination: str = ""
    destination_seconds: float = 0.0
    problems: List[str] = dataclasses.field(default_factory=list)
    notes: List[str] = dataclasses.field(default_factory=list)
    errors: Dict[str, str] = dataclasses.field(default_factory=dict)
    slowest_s: float = 0.0      # answer of the source's monitor
    guest: str = ""             # where it ended: "here" is the source
    waited_for: str = ""        # by a source that was cancelled for it
    spent: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    def bad(self, problem: str, note: str = "") -> None:
        assert problem in PROBLEMS
        if problem not in self.problems:
            self.problems.append(problem)
        if note:
            self.notes.append(f"{problem}: {note}")


class SimPair(VmPair):
    """Its QEMUs are on a fabric, each by its own name."""

    def __init__(self, fabric: Fabric, qemu: str) -> None:
        self._fabric = fabric
        self.qemu = qemu
        super().__init__(qemu, qemu, WORKLOAD, machine=MACHINE)

    def _new_vm(self, name: str, qemu: str) -> Vm:
        self._options["env"] = self._fabric.env(base={})
        return super()._new_vm(name, qemu)


class Drive:
    """One case under way."""

    def __init__(self, case: Case, kind: str, fabric: Fabric, pair: SimPair,
                 patience_s: float) -> None:
        self.case = case
        self.kind = kind
        self.fabric = fabric
        self.pair = pair
        self.source = pair.source
        self.limit_s = case.limit_s
        self.patience_s = max(self.limit_s + SLACK_SECONDS, patience_s)
        self.result = Result(kind, list(case.key))
        self.struck_at = 0.0
        self.stopped = case.fault.signal == "SIGSTOP"
        self.killed = case.fault.signal == "SIGKILL"
        self.refused = ""           # what the command "migrate" said
        self.over = False
        self.watcher: Optional[threading.Thread] = None

    # -------------------------------------------------------------- the fault

    @property
    def who(self) -> str:
        return "source" if self.case.side == SOURCE else "destination-1"

    @property
    def victim(self) -> Vm:
        return self.source if self.case.side == SOURCE else self.pair.there

    def rules(self) -> List[str]:
        fault = self.case.fault
        if self.case.event == "target":
            return []
        action = HOLD if fault.signal else fault.action
        event = self.case.event.format(**words(self.kind))
        if event == "now":
            return [f"now: {action}"]
        if not fault.repeats:
            return [f"on {event}: {action}"]
        word, _, number = event.partition(" ")
        first = int(number or 1)
        return [f"on {word} {n}: {action}" for n in range(first, first + MANY)]

    def script(self) -> str:
        if self.case.armed != "start":
            return ""
        return "".join(f"{self.who}: {rule}\n" for rule in self.rules())

    def arm(self) -> None:
        for rule in self.rules():
            self.fabric.tell(rule, self.who)

    def struck(self) -> bool:
        if self.case.event in ("now", "target"):
            return True
        try:
            answers = self.fabric.tell("stats", self.who)
        except VerbsimError:
            return False            # it has not opened its device yet
        return any(re.search(r"^rule .* hits=[1-9]", answer, re.M)
                   for answer in answers.values())

    def watch_for_strike(self) -> None:
        """In a thread of its own: the monitor may be blocked meanwhile."""
        while not self.struck():
            if self.over:
                return
            time.sleep(0.01)
        self.struck_at = time.monotonic()
        if self.case.fault.signal:
            self.victim.signal(getattr(signal, self.case.fault.signal))
        if self.stopped and self.case.side == SOURCE:
            time.sleep(STOP_SECONDS)
            self.source.signal(signal.SIGCONT)

    def expect_strike(self) -> None:
        """From now on, once the rules are armed."""
        self.watcher = threading.Thread(target=self.watch_for_strike,
                                        daemon=True)
        self.watcher.start()

    def wait_for_strike(self) -> None:
        deadline = time.monotonic() + REACH_SECONDS
        quiet_until = time.monotonic() + 1      # the monitor may be blocked
        while not self.struck_at:
            time.sleep(0.01)
            if not self.refused and time.monotonic() < quiet_until:
                continue
            info = self.query()
            if info.get("status") in FINAL_STATES or self.refused:
                time.sleep(0.1)
                if not self.struck_at:
                    self.result.ended = info.get("status", "none")
                    self.result.bad("unreached", self.refused or info.get(
                        "error-desc", self.result.ended))
                    raise Stop()
            if time.monotonic() > deadline:
                self.result.bad("unreached", f"not within {REACH_SECONDS} s")
                raise Stop()

    # ---------------------------------------------------------- the migration

    def ask(self, command: str, **arguments: Any) -> Any:
        """A command of the source's monitor, which should answer at once."""
        began = time.monotonic()
        try:
            return self.source.qmp.cmd(command, self.patience_s + 5,
                                       **arguments)
        except QmpTimeout as error:
            self.result.ended = "hang"
            self.result.bad("hang", str(error))
            if not self.case.monitor_waits:
                self.result.bad("monitor")
            self.guest_runs()
            raise Stop() from None
        finally:
            spent = time.monotonic() - began
            self.result.slowest_s = max(self.result.slowest_s, spent)

    def query(self) -> Dict[str, Any]:
        return self.ask("query-migrate")

    def begin(self) -> None:
        case = self.case
        self.pair.start_destination(paused=True)
        self.pair.set_capabilities(rdma_pin_all=case.pin_all,
                                   return_path=case.return_path)
        self.source.set_capabilities(
            pause_before_switchover=case.armed == "switchover")
        later = case.armed == "later"
        self.source.set_parameters(
            max_bandwidth=SLOW if later else UNLIMITED,
            downtime_limit=1 if later else 300)
        self.pair.there.qmp.cmd("migrate-incoming", exit_on_error=False,
                                uri=f"rdma:{ADDRESS}:4444")
        target = f"rdma:{ADDRESS}:4444"
        if case.event == "target":
            target = case.fault.action
        if case.armed == "start":
            self.expect_strike()
        try:
            self.ask("migrate", uri=target)
        except QmpError as error:
            self.refused = error.desc

    def until(self, what: str, reached: Any) -> None:
        """Wait for reached(query-migrate's answer), before the fault."""
        deadline = time.monotonic() + REACH_SECONDS
        while True:
            info = self.query()
            if reached(info):
                return
            if (info.get("status") in FINAL_STATES
                    or time.monotonic() > deadline):
                self.result.ended = info.get("status", "none")
                self.result.bad("unreached", f"{what}: the migration is "
                                f"{info.get('status')}: "
                                f"{info.get('error-desc', '')}")
                raise Stop()
            time.sleep(0.02)

    def strike(self) -> None:
        """Bring the migration to its phase, and wait for the fault."""
        if self.case.armed == "later":
            self.until("a later round", lambda info: info.get("ram", {}).get(
                "dirty-sync-count", 0) >= LATER_ROUND)
            self.source.set_parameters(max_bandwidth=CRAWL)
            self.arm()
            self.expect_strike()
        elif self.case.armed == "switchover":
            self.until("the switchover", lambda info: info.get(
                "status") == "pre-switchover")
            self.arm()
            if self.case.event == "now":
                time.sleep(1.5)         # nobody sends anything
            self.expect_strike()
            self.source.qmp.cmd("migrate-continue", state="pre-switchover")
        self.wait_for_strike()

    def wait_for_end(self) -> None:
        """Until the source's migration has ended."""
        if self.refused:
            self.ended({"status": "failed", "error-desc": self.refused})
            return
        if self.case.armed == "later" and (self.case.survives
                                           or self.case.fault.either):
            self.source.set_parameters(max_bandwidth=UNLIMITED,
                                       downtime_limit=300)
        deadline = self.struck_at + self.patience_s
        while True:
            info = self.query()
            if info.get("status") in FINAL_STATES:
                break
            if time.monotonic() > deadline:
                self.result.ended = "hang"
                self.result.bad("hang", f"{info.get('status')} after "
                                f"{self.patience_s:.0f} s")
                self.guest_runs()
                raise Stop()
            time.sleep(0.02)
        self.ended(info)

    def ended(self, info: Dict[str, Any]) -> None:
        self.result.seconds = time.monotonic() - self.struck_at
        self.result.ended = info["status"]
        self.result.errors["source"] = info.get("error-desc", "")
        if self.result.seconds > self.limit_s + SLACK_SECONDS:
            self.result.bad("hang", f"{self.result.seconds:.1f} s, more than "
                            f"{self.limit_s:.0f} s")
        if (self.result.slowest_s > MONITOR_SECONDS
                and not self.case.monitor_waits):
            self.result.bad("monitor", f"{self.result.slowest_s:.1f} s")

    # ------------------------------------------------------------ the verdict

    def guest_runs(self) -> None:
        """It really executes: the heart beats."""
        try:
            self.pair.console.wait_beats(3)
        except GuestError as error:
            self.result.bad("guest", str(error))

    def held(self, name: str) -> Dict[str, int]:
        """What the process called @name has not let go."""
        try:
            answers = self.fabric.tell("objects", name)
        except VerbsimError:
            there = [it.name for it in self.fabric.processes()]
            # Else it never opened the device, or is gone.
            return {"no answer": 1} if name in there else {}
        objects = Stats.parse(list(answers.values())[-1])
        return {kind: count for kind, count in objects.items() if count}

    def stuck(self, vm: Vm) -> float:
        """Until when a worker of it is in the adapter's driver, if at all."""
        return (self.struck_at + self.case.fault.stuck_s
                if vm is self.victim else 0)

    def released(self, vm: Vm, allowed: Dict[str, int]) -> None:
        # A destination that accepts waits for its peer for a while.
        deadline = max(time.monotonic(), self.stuck(vm)) + (
            plan.CONNECT_LIMIT_S if self.case.phase == plan.CONNECTING
            else CLEAN_SECONDS)
        while True:
            held = {key: count for key, count in self.held(vm.name).items()
                    if count > allowed.get(key, 0)}
            if not held:
                return
            if time.monotonic() > deadline:
                self.result.bad("leak", f"{vm.name} holds " + ", ".join(
                    f"{key} {count}" for key, count in held.items()))
                return
            time.sleep(0.05)

    def destination_ends(self) -> None:
        """It fails or exits, or goes on listening; nothing stays behind."""
        vm, result = self.pair.there, self.result
        if self.killed and self.case.side == DESTINATION:
            return
        if self.stopped and self.case.side == DESTINATION:
            vm.signal(signal.SIGCONT)
        waits = {"failed", "completed"}
        if self.case.phase == plan.CONNECTING:
            waits |= {"none", "setup"}  # it listens on
        deadline = SLACK_SECONDS + max(self.struck_at + self.limit_s,
                                       time.monotonic())
        status = "none"
        try:
            while vm.alive():
                status = vm.qmp.cmd("query-migrate").get("status", "none")
                if status in waits:
                    break
                if time.monotonic() > deadline:
                    result.bad("destination", f"it is {status}")
                    break
                time.sleep(0.05)
        except (QmpClosed, QmpTimeout) as error:
            if vm.alive():
                result.bad("destination", str(error))
                return
        result.destination_seconds = time.monotonic() - self.struck_at
        result.destination = status
        if not vm.alive():
            result.destination = f"exit {vm.wait_exit(60)}"
            if vm.wait_exit(60) < 0:
                result.bad("crash", vm.stderr_tail())
            return
        if time.monotonic() < self.stuck(vm) and not self.held(vm.name):
            result.bad("early", "it let go what a worker was still at")
        info = vm.migration()
        result.errors["destination"] = "\n".join(
            [info.get("error-desc", ""), vm.stderr_text()]).strip()
        listens = status in ("none", "setup")
        self.released(vm, {"cm_id": 1, "cm_channel": 1} if listens else {})

    def names_cause(self) -> None:
        """Each side that can speak says what is wrong, as it sees it."""
        for side in (SOURCE, DESTINATION):
            words = self.case.words(side)
            text = self.result.errors.get(side)
            if text is None:
                continue                # it has gone, with what it could say
            if side == DESTINATION and self.case.phase == plan.CONNECTING:
                continue                # there was no migration yet
            if side == DESTINATION and self.result.destination == "completed":
                continue                # only the report of it was lost
            if words == plan.NO_ERROR:
                if not self.case.survives:      # else it "broke" already
                    self.result.bad("error", f"the {side}, which should be "
                                    f"gone, says: {text}")
            elif not re.search(words, text, re.I | re.S):
                self.result.bad("error", f"the {side} says: {text or '-'}")

    def after_failure(self) -> None:
        self.guest_runs()
        self.destination_ends()
        self.one_guest()
        self.names_cause()
        self.released(self.source, {})
        self.next_migration()

    def one_guest(self) -> None:
        """The source's runs on, so the destination's must not."""
        there = self.pair.there
        with contextlib.suppress(QmpClosed, QmpTimeout):
            if there.alive() and there.status() == "running":
                self.result.bad("two")

    def after_completion(self) -> None:
        try:
            self.pair.there.wait_status("running", "paused")
            if self.source.status() == "running":
                self.result.bad("two")
            self.pair.verify()
            self.pair.resume_destination()
            self.pair.guest_verify()
        except (GuestError, VmError) as error:
            self.result.bad("damage", str(error))
        self.released(self.source, {})
        self.released(self.pair.there, {})

    def next_uri(self) -> str:
        removed = (self.case.fault.action == "remove-device"
                   and self.case.side == SOURCE)
        if not removed:
            return f"rdma:{ADDRESS}:4445"
        with contextlib.suppress(QmpError):
            self.source.qmp.cmd("migrate", uri=f"rdma:{ADDRESS}:4445")
            info = self.pair.wait_migration(10)
            if info.get("status") != "failed":
                self.result.bad("next", "without a device a migration is "
                                f"{info.get('status')}")
                raise Stop()
        return f"unix:{self.pair.work}/migration"

    def next_migration(self) -> None:
        """From the same source to a fresh destination, all RAM compared."""
        fault = self.case.fault
        pair = self.pair
        try:
            self.source.set_capabilities(pause_before_switchover=False)
            self.source.set_parameters(max_bandwidth=UNLIMITED,
                                       downtime_limit=300)
            with contextlib.suppress(VerbsimError):
                self.fabric.tell("clear", "source")
                if fault.undo:
                    self.fabric.tell(f"now: {fault.undo}", "source")
            uri = self.next_uri()
            pair.start_destination(uri, paused=True)
            pair.set_capabilities(rdma_pin_all=False, return_path=False)
            pair.migrate(uri)
            pair.verify()
            pair.resume_destination()
            pair.guest_verify()
        except (GuestError, MigrationError, QmpClosed, QmpError, QmpTimeout,
                VmError) as error:
            self.result.bad("next", str(error))
            raise Stop() from None
        self.released(self.source, {})

    def leave(self) -> None:
        """Both exit as asked, and verbsim reports no leak."""
        for vm in (self.source, self.pair.there):
            if not vm.alive():
                continue
            code = vm.quit()
            if code:
                self.result.bad("crash", f"{vm.name} exits with {code}")
            if re.search(r"verbsim: leak", vm.stderr_text()):
                self.result.bad("leak", vm.stderr_tail())

    def judge(self) -> None:
        if self.killed and self.case.side == SOURCE:
            self.destination_ends()
            self.result.ended = "killed"
            self.names_cause()
            return
        self.wait_for_end()
        completed = self.result.ended == "completed"
        if completed:
            if not self.case.may_complete:
                self.result.bad("unnoticed")
            self.after_completion()
        else:
            if self.case.survives:
                self.result.bad("broke", self.result.errors["source"])
            self.after_failure()
        self.leave()

    def run_up(self) -> None:
        """Until the fault has struck."""
        self.pair.start_source()
        self.pair.console.wait_ready()
        self.begin()
        self.strike()

    def run(self) -> Result:
        try:
            try:
                self.run_up()
            except QmpClosed:
                if not (self.killed and self.case.side == SOURCE
                        and self.struck_at):
                    raise
            self.judge()
        except Stop:
            pass
        except QmpClosed:
            self.result.ended = "crash"
            self.result.bad("crash", self.source.stderr_tail())
        except (GuestError, QmpError, QmpTimeout, VerbsimError,
                VmError) as error:
            self.result.bad("next" if self.struck_at else "unreached",
                            str(error))
        finally:
            self.over = True
            if self.watcher:
                self.watcher.join()
        for vm in (self.source, self.pair.destination):
            code = vm.process.poll() if vm and vm.process else None
            if (code is not None and code < 0
                    and not (self.killed and vm is self.victim)):
                self.result.bad("crash", vm.stderr_tail())
        if self.result.problems:
            self.result.notes.append(self.source.stderr_tail())
            if self.pair.destination:
                self.result.notes.append(self.pair.there.stderr_tail())
        return self.result


def profile() -> str:
    """That of the sweep, unless the environment names another."""
    return os.environ.get("VERBSIM_PROFILE") or str(PROFILE)


@contextlib.contextmanager
def _fabric_for(folder: pathlib.Path, trace: bool,
                bandwidth: str) -> Iterator[Fabric]:
    script = folder / "faults"
    script.write_text("")
    shape = profile()
    if bandwidth:
        own = folder / "slow.profile"
        own.write_text(PROFILE.read_text(encoding="utf-8").replace(
            "bandwidth = unlimited", f"bandwidth = {bandwidth}"),
            encoding="utf-8")
        shape = str(own)
    yield Fabric(folder / "fabric", faults=script, profile=shape,
                 trace=folder / "trace" if trace else None)


def run_case(case: Any, kind: str, qemu: str, patience_s: float,
             trace: str = "", make: Any = Drive) -> Result:
    """@kind: ours or stock; @patience_s: when a hang is one (at least);
    @make: Drive, or what drives cases of another kind.

    A phase may be over before the fault strikes, on a busy machine: it gets
    three chances, and then the case has failed.
    """
    began = time.monotonic()
    for _ in range(ATTEMPTS):
        result = _attempt(case, kind, qemu, patience_s, trace, make)
        if "unreached" not in result.problems:
            break
    result.spent = time.monotonic() - began
    return result


def _attempt(case: Any, kind: str, qemu: str, patience_s: float,
             trace: str, make: Any) -> Result:
    with tempfile.TemporaryDirectory(prefix="case-") as name:
        folder = pathlib.Path(trace or name)
        with _fabric_for(folder, bool(trace), case.bandwidth) as fabric, \
                SimPair(fabric, qemu) as pair:
            drive = make(case, kind, fabric, pair, patience_s)
            (folder / "faults").write_text(drive.script())
            return drive.run()
