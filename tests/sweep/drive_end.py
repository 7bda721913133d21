# SPDX-License-Identifier: GPL-2.0-or-later
"""Drives one case of the end's sweep: who has the guest?

The fault of plan_end strikes at one of the last messages. When all has settled
the manager does what docs/rdma.txt says ("The end of a migration"), and then
the guest runs in exactly one QEMU, with all its memory, and never ran in two.
"""
import contextlib
import os
import pathlib
import signal
import threading
import time
from typing import Any, Dict, List, Optional

import plan_end
from drive import (ADDRESS, HOLD, MACHINE, SLACK_SECONDS, STOP_SECONDS,
                   UNLIMITED, WORKLOAD, Drive, Result, SimPair, Stop, words)
from guest import GuestError
from plan_end import SOURCE, EndCase
from qmp import QmpClosed, QmpError, QmpTimeout
from slowdisk import NO_DISK, SlowDisk
from ram import compare_ram
from verbsim import VerbsimError
from vmpair import FINAL_STATES, Vm, VmError

BITMAP_BYTES = 32 << 20
BIG_BYTES = BITMAP_BYTES * 8 * 512
BIG_DISK = ("-blockdev", f"driver=null-co,node-name=disk0,size={BIG_BYTES}")
LONG_MS = 2000000               # QEMU counts a bitmap's bits as bytes
WAIT_SECONDS = 3                # it must still be waiting then
CANCEL_SECONDS = 5
LEFT_STOPPED = "was told to start the guest and did not confirm it"
FIFO_NODE = "rmig-fifo"


class EndDrive(Drive):
    """One case of the end under way."""

    case: EndCase

    def __init__(self, case: EndCase, kind: str, fabric: Any, pair: SimPair,
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
        self.killed = case.fault.action == "SIGKILL"
        self.stopped = case.fault.action == "SIGSTOP"
        self.refused = ""
        self.over = False
        self.watcher: Optional[threading.Thread] = None
        self.disk: Optional[SlowDisk] = None
        self.fifo: Optional[pathlib.Path] = None
        self.word, _, number = case.fault.action.partition(" ")
        self.seconds = float(number) if number.isdigit() else 0.0
        # Its monitor would make us wait
        self.there_is_blocked = self.word in ("disk", "load")

    # ------------------------------------------------------------- the fault

    @property
    def by_us(self) -> bool:
        """Not an action of verbsim's: the message is held meanwhile."""
        return self.word in ("cancel", "SIGKILL", "SIGSTOP", "disk", "load",
                             "nothing", "large")

    def rules(self) -> List[str]:
        action = HOLD if self.by_us else self.case.fault.action
        event = self.case.event.format(**words(self.kind))
        return [f"on {event}: {action}"]

    def script(self) -> str:
        if self.case.held:
            return ""
        return "".join(f"{self.who}: {rule}\n" for rule in self.rules())

    def act(self) -> None:
        """In the watching thread, once the message is held."""
        if self.word in ("SIGKILL", "SIGSTOP"):
            self.victim.signal(getattr(signal, self.word))
            if self.stopped:
                time.sleep(STOP_SECONDS)
                self.victim.signal(signal.SIGCONT)
        elif self.word == "disk" and self.disk:
            time.sleep(self.seconds)
            self.disk.go_on()
        elif self.word == "load":
            self.block_load()
            time.sleep(self.seconds)
            self.release_load()
        self.there_is_blocked = False

    def watch_for_strike(self) -> None:
        while not self.struck():
            if self.over:
                return
            time.sleep(0.01)
        self.struck_at = time.monotonic()
        self.act()

    def block_load(self) -> None:
        """Its main loop opens a pipe that nobody writes to."""
        self.fifo = self.pair.work / "fifo"
        os.mkfifo(self.fifo)
        self.pair.there.qmp.send("blockdev-add", driver="file", read_only=True,
                                 filename=str(self.fifo), node_name=FIFO_NODE)

    def release_load(self) -> None:
        fifo, self.fifo = self.fifo, None
        deadline = time.monotonic() + SLACK_SECONDS
        while fifo:
            try:
                os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
                break
            except OSError:             # it has not come there yet
                if time.monotonic() > deadline:
                    return
                time.sleep(0.05)
        if fifo:
            with contextlib.suppress(QmpError, QmpClosed, QmpTimeout):
                self.pair.there.qmp.receive("blockdev-add")

    # --------------------------------------------------------- the migration

    def start_both(self) -> None:
        args = NO_DISK if self.word == "disk" else ()
        if self.word == "large":
            args = BIG_DISK
        self.pair.start_source(*args)
        self.pair.console.wait_ready()
        if self.word == "disk":
            self.disk = SlowDisk(self.pair.qemu, WORKLOAD, self.pair.work,
                                 machine=MACHINE)
            args = self.disk.options()
        self.pair.start_destination(paused=self.case.paused, args=args)

    def begin(self) -> None:
        case = self.case
        self.pair.set_capabilities(
            return_path=case.return_path,
            late_block_activate=case.also == plan_end.LATE_ACTIVATE,
            dirty_bitmaps=self.word == "large")
        self.source.set_capabilities(pause_before_switchover=case.held)
        self.source.set_parameters(
            max_bandwidth=UNLIMITED,
            downtime_limit=LONG_MS if self.word == "large" else 300)
        if self.word == "large":
            self.source.qmp.cmd("block-dirty-bitmap-add", node="disk0",
                                name="backup", granularity=512)
            # A bitmap without a bit set is not sent.
            for at in range(0, BIG_BYTES, 1 << 30):
                self.source.qmp.hmp(f'qemu-io disk0 "write -z {at} 1G"')
        target = f"rdma:{ADDRESS}:4444"
        self.pair.there.qmp.cmd("migrate-incoming", exit_on_error=False,
                                uri=target)
        if self.disk:
            self.disk.stand_still()
        if not case.held:
            self.expect_strike()
        self.ask("migrate", uri=target)

    def strike(self) -> None:
        if self.case.held:
            self.until("the switchover", lambda info: info.get(
                "status") == "pre-switchover")
            self.arm()
            self.expect_strike()
            self.source.qmp.cmd("migrate-continue", state="pre-switchover")
        self.wait_for_strike()
        if self.word == "cancel":
            self.ask("migrate_cancel")

    def run_up(self) -> None:
        self.start_both()
        self.begin()
        self.strike()

    # ----------------------------------------------------------- the verdict

    @staticmethod
    def state_of(vm: Vm) -> str:
        """Its run state; "gone" if there is no QEMU, "busy" if no answer."""
        if not vm.alive():
            return "gone"
        try:
            return vm.qmp.cmd("query-status", 1)["status"]
        except QmpTimeout:
            return "busy"
        except QmpClosed:
            return "gone"

    def ran_in_both(self) -> None:
        """Whether two guests are seen; only what runs in both counts."""
        if self.there_is_blocked:
            return
        states = [self.state_of(vm) for vm in (self.source, self.pair.there)]
        if states == ["running", "running"]:
            self.result.bad("two")

    def source_ends(self) -> None:
        """Wait for it; a source that waits on purpose is cancelled."""
        began = self.struck_at
        deadline = began + self.patience_s
        cancelled_at = 0.0
        while True:
            info = self.query()
            now = time.monotonic()
            if info.get("status") in FINAL_STATES:
                break
            if self.case.fault.waits and self.kind == "ours" and (
                    not cancelled_at and now > began + WAIT_SECONDS):
                self.waits_for(info)
                self.ask("migrate_cancel")
                cancelled_at = now
            if now > deadline:
                self.result.ended = "hang"
                self.result.bad("hang", f"{info.get('status')} after "
                                f"{self.patience_s:.0f} s")
                raise Stop()
            self.ran_in_both()
            time.sleep(0.05)
        self.ended(info)
        spent = time.monotonic() - cancelled_at
        if cancelled_at and spent > CANCEL_SECONDS + SLACK_SECONDS:
            self.result.bad("hang", f"cancelling took {spent:.1f} s")

    def waits_for(self, info: Dict[str, Any]) -> None:
        what = info.get("rdma", {}).get("waiting-for")
        if not what:
            self.result.bad("silent", f"the source is {info.get('status')}")
        self.result.waited_for = what or ""

    def destination_settles(self) -> str:
        """Its migration's state at the end, or "gone"."""
        there = self.pair.there
        deadline = (max(self.struck_at + self.limit_s, time.monotonic()) +
                    25 + SLACK_SECONDS)     # its adapter's own patience
        while there.alive():
            try:
                status = there.qmp.cmd("query-migrate").get("status", "none")
            except QmpClosed:
                break
            if status in FINAL_STATES:
                return status
            if time.monotonic() > deadline:
                self.result.bad("destination", f"it is {status}")
                return status
            self.ran_in_both()
            time.sleep(0.05)
        return "gone"

    def manage(self, there: str) -> Optional[Vm]:
        """What whoever manages the two does; where the guest is then."""
        source, result = self.source, self.result
        here = self.state_of(source)
        result.errors["source"] = result.errors.get("source", "")
        taken = there == "completed"
        if here == "gone":
            return self.pair.there if taken else None
        if result.ended == "completed":
            if self.killed and there == "gone" and self.case.step in (
                    plan_end.STARTED, plan_end.REPORT):
                # Killed with the guest that it had, as any QEMU may be.
                result.guest = "killed there"
                return None
            if not taken:
                result.bad("none", f"completed, and the destination is "
                           f"{there}")
                return None
            return self.pair.there
        if here == "running":
            if taken and not self.case.paused:
                result.bad("two")
            if self.pair.there.alive():
                self.pair.there.quit()
            return source
        if LEFT_STOPPED not in result.errors["source"]:
            result.bad("none", f"the source is {result.ended}, its guest "
                       f"{here}: {result.errors['source']}")
        result.guest = "stopped, "
        if taken:
            source.quit()
            return self.pair.there
        source.cont()
        return source

    def compare(self, running: bool) -> None:
        """All RAM with the source's, whose guest has stopped or is gone."""
        source, there = self.source, self.pair.there
        ram = compare_ram(source.ram_fd, there.ram_fd, source.ram_bytes,
                          WORKLOAD.changing_ranges() if running else ())
        if not ram.equal:
            self.result.bad("damage", ram.describe())

    def has_guest(self, vm: Vm) -> None:
        """It runs there and nowhere else, with all its memory."""
        there = self.pair.there
        try:
            if vm is there:
                there.wait_status("running", "paused")
                running = self.state_of(there) == "running"
                if not running and not self.case.paused:
                    self.result.bad("none", "the destination does not start "
                                    "its guest")
                self.compare(running)
                if not running:
                    there.cont()
            vm.wait_status("running")
            self.pair.console.wait_beats(3)
            self.pair.guest_verify()
        except GuestError as error:
            self.result.bad("damage", str(error))
        except VmError as error:
            self.result.bad("two" if "in 2 QEMUs" in str(error) else "none",
                            str(error))

    def judge(self) -> None:
        result = self.result
        if self.killed and self.case.side == SOURCE:
            result.ended = "killed"
        else:
            self.source_ends()
        if self.watcher:
            self.watcher.join()         # the disk is there, or it goes on
        with contextlib.suppress(VerbsimError):
            if self.case.fault.undo:
                self.fabric.tell(f"now: {self.case.fault.undo}", self.who)
        there = self.destination_settles()
        result.destination = there
        result.destination_seconds = time.monotonic() - self.struck_at
        if self.case.fault.must and result.ended not in (
                self.case.fault.must, "killed"):
            result.bad("broke", result.errors.get("source", ""))
        vm = self.manage(there)
        if vm:
            result.guest += "here" if vm is self.source else "there"
            self.has_guest(vm)
        elif not self.killed and not result.problems:
            # Only who was killed may have taken it along.
            result.bad("none")
        for vm in (self.source, self.pair.there):
            if vm.alive():
                self.released(vm, {})
                if vm.quit():
                    result.bad("crash", vm.stderr_tail())

    def run(self) -> Result:
        try:
            return super().run()
        finally:
            self.release_load()
            if self.disk:
                self.disk.close()
