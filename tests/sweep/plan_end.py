# SPDX-License-Identifier: GPL-2.0-or-later
"""What the fault sweep breaks at the end: faults x steps x options.

Each of the last messages is a step. A fault strikes while one of them is held
back, or as soon as it has come; then exactly one guest must be left, whatever
the migration was set up with. docs/rdma.txt, "The end".
"""
import dataclasses
from typing import Iterator, List, Optional, Tuple

SOURCE, DESTINATION = "source", "destination"

# Who says it, and as which message of verbsim's rules.  What the last QEMU_FILE
# behind pre-switchover is, drive.WORDS says; on the return path the first
# answers a ping, and the second is the final report.
LAST, LOAD, LOADED, START, STARTED, REPORT = STEPS = (
    "last bytes", "LOAD_REQUEST", "LOADED", "START", "STARTED", "report")
SAYS = {
    LAST: (SOURCE, "QEMU_FILE {last}"),
    LOAD: (SOURCE, "LOAD_REQUEST"),
    LOADED: (DESTINATION, "LOADED"),
    START: (SOURCE, "START"),
    STARTED: (DESTINATION, "STARTED"),
    REPORT: (DESTINATION, "QEMU_FILE 2"),
}
# A peer of version 1 knows no others.
STOCK_STEPS = (LAST, REPORT)

# (return path, -S), in the order of the table's rows
OPTIONS = [(False, True), (False, False), (True, True), (True, False)]
RETURN_PATH, PAUSED = "return path", "-S"
LATE_ACTIVATE = "late-block-activate"
SWITCHOVER = "pause-before-switchover"


@dataclasses.dataclass(frozen=True)
class EndFault:
    """@action: verbsim's, or a word of drive_end.ACTIONS.

    @at: on which side it strikes; "": where the message leaves.
    @must: what the migration must come to: completed, or "" for whatever
    leaves one guest.
    """
    name: str
    action: str
    at: str = ""
    must: str = ""
    limit_s: float = 5          # from the fault to the source's end
    steps: Tuple[str, ...] = STEPS
    waits: bool = False         # the source, until it is cancelled
    undo: str = ""              # by verbsim, when the source has ended
    stuck_s = 0
    also: Tuple[str, ...] = ()  # further options it is tried with


def slow(seconds: int) -> List[EndFault]:
    """The disk is activated behind START, all else before LOADED."""
    return [
        EndFault(f"blocked disk, {seconds} s", f"disk {seconds}", DESTINATION,
                 must="completed", limit_s=seconds + 15, steps=(STARTED,),
                 also=(LATE_ACTIVATE, SWITCHOVER) if seconds == 10 else ()),
        EndFault(f"blocked load, {seconds} s", f"load {seconds}", DESTINATION,
                 must="completed", limit_s=seconds + 15, steps=(LAST,),
                 also=(LATE_ACTIVATE,) if seconds == 10 else ()),
    ]


FAULTS: List[EndFault] = [
    EndFault("none", "nothing", must="completed", steps=(LAST,),
             also=(LATE_ACTIVATE, SWITCHOVER)),
    EndFault("source cancelled", "cancel",
             also=(LATE_ACTIVATE, SWITCHOVER)),
    EndFault("source killed", "SIGKILL", SOURCE),
    EndFault("destination killed", "SIGKILL", DESTINATION),
    EndFault("source stopped for 5 s", "SIGSTOP", SOURCE, must="completed",
             limit_s=20),
    EndFault("destination stopped for 5 s", "SIGSTOP", DESTINATION,
             must="completed", limit_s=20),
    EndFault("link down for 1 s", "link down for 1s", must="completed",
             limit_s=20),
    EndFault("link down for 6 s", "link down for 6s", must="completed",
             limit_s=25),
    EndFault("link down for 20 s", "link down for 20s", limit_s=35),
    EndFault("send: retries exceeded", "complete RETRY_EXC_ERR"),
    EndFault("CM disconnect", "disconnect"),
    EndFault("receive not postable, source", "refuse-receives", SOURCE),
    EndFault("receive not postable, destination", "refuse-receives",
             DESTINATION),
    EndFault("device removed, destination", "remove-device", DESTINATION,
             limit_s=25),
    # Its own heartbeat fails after a while, and the source's does not.
    EndFault("destination frozen: its NIC answers", "freeze", DESTINATION,
             waits=True, limit_s=40, undo="unfreeze",
             steps=(LAST, LOAD, LOADED, START)),
    *slow(10), *slow(30), *slow(60), *slow(120),
    EndFault("large state, 1 MiB/s", "large", must="completed", limit_s=180,
             steps=(LAST,)),
]

# A case of every fault; the long ones are for the whole sweep.
SHORT_STEPS = {
    "none": (LAST, (True, False)),
    "source cancelled": (LOADED, (True, False)),
    "source killed": (START, (False, False)),
    "destination killed": (START, (False, False)),
    "source stopped for 5 s": (LOAD, (True, True)),
    "destination stopped for 5 s": (START, (False, True)),
    "link down for 1 s": (STARTED, (False, False)),
    "link down for 6 s": (LAST, (False, False)),
    "link down for 20 s": (STARTED, (False, False)),
    "send: retries exceeded": (STARTED, (False, False)),
    "CM disconnect": (REPORT, (True, False)),
    "receive not postable, source": (LOADED, (False, False)),
    "receive not postable, destination": (LOAD, (True, True)),
    "device removed, destination": (LOADED, (False, False)),
    "destination frozen: its NIC answers": (LOAD, (True, False)),
    "blocked disk, 10 s": (STARTED, (True, False)),
    "blocked load, 10 s": (LAST, (False, False)),
}
LONG = {fault.name for fault in FAULTS} - set(SHORT_STEPS)


@dataclasses.dataclass(frozen=True)
class EndCase:
    """One cell of the end's table."""
    fault: EndFault
    step: str
    return_path: bool
    paused: bool                # -S
    also: str = ""

    @property
    def options(self) -> str:
        words = [RETURN_PATH] if self.return_path else []
        words += [PAUSED] if self.paused else []
        words += [self.also] if self.also else []
        return ", ".join(words) or "plain"

    @property
    def key(self) -> Tuple[str, str, str]:
        return self.fault.name, self.step, self.options

    @property
    def name(self) -> str:
        return "the end: " + ", ".join(self.key)

    @property
    def limit_s(self) -> float:
        return self.fault.limit_s

    @property
    def event(self) -> str:
        """Where the rule strikes: as it leaves, or as it has come."""
        says, message = SAYS[self.step]
        if self.step == REPORT and self.held:
            message = "QEMU_FILE"       # counted from pre-switchover on
        side = self.side
        return f"{'send' if side == says else 'recv'} {message}"

    @property
    def side(self) -> str:
        """Of the rule."""
        return self.fault.at or SAYS[self.step][0]

    phase = "the end"

    @property
    def bandwidth(self) -> str:
        return "8Mbit/s" if self.fault.action == "large" else ""

    @property
    def monitor_waits(self) -> bool:
        """As with any transport while the device state goes out, or while it
        is stopped."""
        return self.step == LAST or (self.fault.action == "SIGSTOP" and
                                     self.fault.at == SOURCE)

    @property
    def held(self) -> bool:
        """Only behind pre-switchover can the last bytes be told."""
        return self.step == LAST or self.also == SWITCHOVER

    def exists(self, kind: str) -> bool:
        if self.step == REPORT and not self.return_path:
            return False
        return kind == "ours" or self.step in STOCK_STEPS


def cells(kind: str) -> Iterator[EndCase]:
    for fault in FAULTS:
        for step in fault.steps:
            for return_path, paused in OPTIONS:
                case = EndCase(fault, step, return_path, paused)
                if case.exists(kind):
                    yield case
            for also in fault.also:
                yield EndCase(fault, step, True, False, also)


def is_short(case: EndCase) -> bool:
    wanted = SHORT_STEPS.get(case.fault.name)
    return (not case.also and
            wanted == (case.step, (case.return_path, case.paused)))


def find(key: Tuple[str, str, str]) -> Optional[EndCase]:
    return next((case for case in cells("ours") if case.key == key), None)


def check_short() -> None:
    unknown = set(SHORT_STEPS) - {fault.name for fault in FAULTS}
    if unknown:
        raise ValueError(f"plan_end.SHORT_STEPS: no faults {unknown}")
    there = {case.fault.name for case in cells("ours") if is_short(case)}
    if there != set(SHORT_STEPS):
        raise ValueError("plan_end.SHORT_STEPS names cases that do not exist")


check_short()
