# SPDX-License-Identifier: GPL-2.0-or-later
"""What the fault sweep breaks: faults x phases x sides.

A fault is an action of a verbsim script ("link down", "complete ...") or a
signal. A phase and a side give the event at which it strikes; where a fault
has no such event, the case is not run and the table says why.

Who sends what, and so which event means which phase, is in docs/rdma.txt.
"""
import dataclasses
from typing import Dict, Iterator, List, Optional, Tuple, Union

CONNECTING, SETUP, FIRST, LATER, COMPLETION, DEVICE, RETURN = PHASES = (
    "connecting", "setup", "first round", "later round", "completion",
    "device state", "return path")
SOURCE, DESTINATION = SIDES = ("source", "destination")

# When the rule is armed: from the start, in a later round, or while the
# migration waits in the state pre-switchover.
ARMED = {LATER: "later", COMPLETION: "switchover", DEVICE: "switchover"}

Events = Dict[Tuple[str, str], str]

# Something that surely happens in that phase on that side.
ANYTHING: Events = {
    (CONNECTING, SOURCE): "cm ROUTE_RESOLVED",
    (CONNECTING, DESTINATION): "cm CONNECT_REQUEST",
    (SETUP, SOURCE): "send RAM_BLOCKS_REQUEST",
    (SETUP, DESTINATION): "send RAM_BLOCKS_RESULT",
    (FIRST, SOURCE): "write 4",
    (FIRST, DESTINATION): "send REGISTER_RESULT 2",
    (LATER, SOURCE): "write",
    (LATER, DESTINATION): "recv REGISTER_FINISHED",
    (COMPLETION, SOURCE): "send REGISTER_FINISHED",
    (COMPLETION, DESTINATION): "recv REGISTER_FINISHED",
    (DEVICE, SOURCE): "send QEMU_FILE {last}",
    (DEVICE, DESTINATION): "recv QEMU_FILE {last}",
    # Only on the second connection does the source say READY, or the
    # destination send stream.
    (RETURN, SOURCE): "send READY",
    (RETURN, DESTINATION): "send QEMU_FILE",
}
WRITES: Events = {
    (FIRST, SOURCE): "write 4",
    (LATER, SOURCE): "write",
    (COMPLETION, SOURCE): "write",
}
SENDS: Events = {
    **{key: event for key, event in ANYTHING.items()
       if event.startswith("send")},
    (FIRST, SOURCE): "send REGISTER_REQUEST 2",
    (LATER, SOURCE): "send REGISTER_FINISHED",
    (LATER, DESTINATION): "send READY",
    (COMPLETION, SOURCE): "send REGISTER_FINISHED",
    (COMPLETION, DESTINATION): "send READY",
    # Nobody waits for the last one, which is said for what never comes.
    (DEVICE, DESTINATION): "send READY 2",
}
RECVS: Events = {
    (SETUP, SOURCE): "recv RAM_BLOCKS_RESULT",
    (SETUP, DESTINATION): "recv RAM_BLOCKS_REQUEST",
    (FIRST, SOURCE): "recv REGISTER_RESULT 2",
    (FIRST, DESTINATION): "recv REGISTER_REQUEST 2",
    (LATER, SOURCE): "recv READY",
    (LATER, DESTINATION): "recv REGISTER_FINISHED",
    (COMPLETION, SOURCE): "recv READY",
    (COMPLETION, DESTINATION): "recv REGISTER_FINISHED",
    (DEVICE, SOURCE): "recv READY 3",
    (DEVICE, DESTINATION): "recv QEMU_FILE {last}",
    (RETURN, SOURCE): "recv QEMU_FILE",
    (RETURN, DESTINATION): "recv READY",
}
REGISTRATIONS: Events = {
    (CONNECTING, SOURCE): "register",
    (CONNECTING, DESTINATION): "register",
    (SETUP, SOURCE): "register {setup}",
    (SETUP, DESTINATION): "register {setup}",
    (FIRST, SOURCE): "register {first}",
    (FIRST, DESTINATION): "register {first}",
    (RETURN, SOURCE): "register {setup}",
    (RETURN, DESTINATION): "register {setup}",
}
# Only a worker of the destination's waits for it.
STUCK: Events = {
    (SETUP, DESTINATION): "register {setup}",
    (FIRST, DESTINATION): "register {first}",
}
# The first news of a connection, and that it stands or is over.
CM_EARLY: Events = {
    (CONNECTING, SOURCE): "cm ROUTE_RESOLVED",
    (CONNECTING, DESTINATION): "cm CONNECT_REQUEST",
    (RETURN, SOURCE): "cm ROUTE_RESOLVED 2",
    (RETURN, DESTINATION): "cm CONNECT_REQUEST 2",
}
CM_LATE: Events = {
    (CONNECTING, SOURCE): "cm {answer}",
    (CONNECTING, DESTINATION): "cm ESTABLISHED",
    (DEVICE, SOURCE): "cm DISCONNECTED",
    (RETURN, SOURCE): "cm {answer} 2",
    (RETURN, DESTINATION): "cm ESTABLISHED 2",
}
# A connection must stand to be broken.
BREAKS: Events = {
    **ANYTHING,
    (CONNECTING, SOURCE): "cm {answer}",
    (CONNECTING, DESTINATION): "cm ESTABLISHED",
}
REQUESTS: Events = {key: event for key, event in CM_EARLY.items()
                    if key[1] == DESTINATION}
# Where the migration goes to is wrong from the start.
TARGETS: Events = {(CONNECTING, SOURCE): "target"}
# Before the migration goes on from pre-switchover nobody sends anything.
IDLE: Events = {(COMPLETION, SOURCE): "now", (COMPLETION, DESTINATION): "now"}

# Of a side that is gone, or of a fault that both survive: no error is due.
NO_ERROR = ""
# Of a side that comes back to find that its peer did not wait for it.
GIVEN_UP = "closed the connection|gave up"
LOST = ("closed the connection|disconnect|gave up|refused|retry|heartbeat|"
        "timed out|remote operation error|sibling indicated error")
# A destination that can pin nothing refuses; the source then says what to do.
REFUSED = f"cannot pin a single chunk|{LOST}"
SILENT = "timed out|time-?out|retry|heartbeat|unreachable"
CONNECT_LIMIT_S = 15            # nobody may answer at all


@dataclasses.dataclass(frozen=True)
class Fault:
    """One row of the table, for both sides."""
    name: str
    events: Events
    action: str                     # verbsim's, or SIGSTOP, SIGKILL
    why_not: str                    # n/a where there is no event
    own: str                        # what its own side's error says (regex)
    peer: str = LOST                # what the other side's error says
    survives: bool = False          # the migration completes all the same
    either: bool = False            # or that, or a clean failure
    limit_s: float = 5
    repeats: bool = False           # every event from the first one on
    undo: str = ""                  # before the following migration
    stuck_s: float = 0              # so long its own side holds what it has

    @property
    def signal(self) -> str:
        return self.action if self.action.startswith("SIG") else ""


NO_WRITE = "only the source writes, and only pages"
NO_SEND = "nothing is sent before the connection stands"
ONLY_CONNECTING = "concerns the source's connecting only"
NO_CM = "no such event comes then"
NO_REGISTER = "what is dirty again is registered already"
ALWAYS = "happens in every phase"

FAULTS: List[Fault] = [
    # An address for documentation: no host has it.
    Fault("nobody at the address", TARGETS, "rdma:203.0.113.9:4444",
          ONLY_CONNECTING, own="nobody answers|unreachable|timed out",
          limit_s=15),
    Fault("nobody listens", TARGETS, "rdma:127.0.0.1:4499", ONLY_CONNECTING,
          own="nothing listens|refused"),
    Fault("write: retries exceeded", WRITES, "complete RETRY_EXC_ERR",
          NO_WRITE, own="retry"),
    Fault("write: remote access error", WRITES, "complete REM_ACCESS_ERR",
          NO_WRITE, own="access"),
    Fault("send: retries exceeded", SENDS, "complete RETRY_EXC_ERR",
          NO_SEND, own="retry"),
    Fault("send: receiver not ready", SENDS, "complete RNR_RETRY_EXC_ERR",
          NO_SEND, own="RNR"),
    Fault("receive: too small", RECVS, "complete LOC_LEN_ERR", NO_SEND,
          own="length"),
    Fault("CM disconnect", BREAKS, "disconnect", ALWAYS,
          own="closed the connection|disconnect|sibling indicated error"),
    Fault("CM reject", REQUESTS, "reject", "only the listener can refuse",
          # It refuses the return path's connection; then the source leaves.
          own=GIVEN_UP, peer="refused|reject"),
    Fault("link down", ANYTHING, "link down", ALWAYS, own=SILENT, peer=SILENT,
          limit_s=30, undo="link up"),
    Fault("link down while idle", IDLE, "link down",
          "see the row above; this one is of a migration that waits",
          own=SILENT, peer=SILENT, limit_s=30, undo="link up"),
    Fault("link down for 1 s", ANYTHING, "link down for 1s", ALWAYS,
          own=NO_ERROR, survives=True, limit_s=20),
    Fault("registration: ENOMEM", REGISTRATIONS, "fail ENOMEM", NO_REGISTER,
          own="Cannot allocate memory", peer=REFUSED, repeats=True),
    Fault("registration: EPERM", REGISTRATIONS, "fail EPERM", NO_REGISTER,
          own="not permitted", peer=REFUSED, repeats=True),
    # Its adapter lives, and so does its main loop.  It does end when nobody
    # waits for it any more, so that what it holds is seen to go.
    Fault("registration: never ends", STUCK, "delay 60s", NO_REGISTER,
          own=LOST, peer="timed out", limit_s=30, stuck_s=60),
    Fault("a message 2 s late", SENDS, "delay 2s", NO_SEND, own=NO_ERROR,
          survives=True, limit_s=20),
    Fault("CM event 2 s late", CM_EARLY, "delay 2s", NO_CM, own=NO_ERROR,
          survives=True, limit_s=20),
    Fault("CM event twice", CM_EARLY, "duplicate", NO_CM, own=NO_ERROR,
          survives=True, limit_s=20),
    Fault("CM event twice, at the end", CM_LATE, "duplicate", NO_CM,
          own=NO_ERROR, survives=True, limit_s=20),
    Fault("CM event lost", CM_EARLY, "lose", NO_CM, own="timed out|time-?out",
          either=True, limit_s=20),
    Fault("CM event lost, at the end", CM_LATE, "lose", NO_CM,
          # Both wait equally long for the other's next step: the source's
          # own wait ends first, or the destination's, and that refuses it.
          own=f"{SILENT}|refused the connection", peer=LOST, either=True,
          limit_s=20),
    Fault("device removed", ANYTHING, "remove-device", ALWAYS,
          own="device was removed|DEVICE_REMOVAL|No such device",
          limit_s=20),
    Fault("frozen: its NIC answers", ANYTHING, "freeze", ALWAYS,
          own="timed out|time-?out", limit_s=30, undo="unfreeze"),
    Fault("stopped (SIGSTOP)", ANYTHING, "SIGSTOP", ALWAYS,
          # It goes on only when the other has waited long enough.
          own=GIVEN_UP, peer="timed out|time-?out", limit_s=30),
    Fault("killed (SIGKILL)", ANYTHING, "SIGKILL", ALWAYS, own=NO_ERROR),
]

# QEMU's destination drops the error of a return path it sends on (nobody looks
# at that of to_src_file).  It hears on the other connection, which is whole,
# that the source has given up, and can say only that.  Where the fault hits
# both connections, or the accepting of this one, it does name the cause.
HIDDEN_BY_QEMU = {
    ("receive: too small", RETURN, DESTINATION): f"{GIVEN_UP}|length",
    ("CM disconnect", RETURN, DESTINATION): GIVEN_UP,
}

# Only the report on the return path is lost, and a guest that was handed over
# does not need it.
REPORT_ONLY = {
    ("send: retries exceeded", RETURN, DESTINATION),
    ("send: receiver not ready", RETURN, DESTINATION),
}

# A case of every fault, spread over phases and sides.
SHORT = {
    ("nobody at the address", CONNECTING, SOURCE),
    ("nobody listens", CONNECTING, SOURCE),
    ("write: retries exceeded", LATER, SOURCE),
    ("write: remote access error", FIRST, SOURCE),
    ("send: retries exceeded", SETUP, DESTINATION),
    ("send: receiver not ready", DEVICE, SOURCE),
    ("receive: too small", LATER, DESTINATION),
    ("CM disconnect", COMPLETION, SOURCE),
    ("CM reject", CONNECTING, DESTINATION),
    ("link down", FIRST, DESTINATION),
    ("link down while idle", COMPLETION, SOURCE),
    ("link down for 1 s", LATER, SOURCE),
    ("registration: ENOMEM", FIRST, SOURCE),
    ("registration: EPERM", SETUP, DESTINATION),
    ("registration: never ends", FIRST, DESTINATION),
    ("a message 2 s late", RETURN, DESTINATION),
    ("CM event 2 s late", CONNECTING, SOURCE),
    ("CM event twice", CONNECTING, DESTINATION),
    ("CM event twice, at the end", RETURN, DESTINATION),
    ("CM event lost", RETURN, SOURCE),
    ("CM event lost, at the end", CONNECTING, SOURCE),
    # The destination's main loop went round and round there once.
    ("CM event lost, at the end", RETURN, DESTINATION),
    ("CM event twice", RETURN, DESTINATION),
    ("device removed", LATER, DESTINATION),
    ("frozen: its NIC answers", DEVICE, DESTINATION),
    ("stopped (SIGSTOP)", FIRST, DESTINATION),
    ("killed (SIGKILL)", RETURN, DESTINATION),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One cell of the table."""
    fault: Fault
    phase: str
    side: str

    @property
    def name(self) -> str:
        return f"{self.fault.name}, {self.phase}, {self.side}"

    @property
    def key(self) -> Tuple[str, str, str]:
        return self.fault.name, self.phase, self.side

    @property
    def event(self) -> str:
        return self.fault.events.get((self.phase, self.side), "")

    def words(self, side: str) -> str:
        """What the error of @side must match."""
        if side == self.side:
            return HIDDEN_BY_QEMU.get(self.key, self.fault.own)
        if self.return_path:
            # The other connection's loss may be seen first.
            return f"{self.fault.peer}|{LOST}"
        return self.fault.peer

    @property
    def armed(self) -> str:
        return ARMED.get(self.phase, "start")

    @property
    def pin_all(self) -> bool:
        """Only then is anything registered during setup."""
        return self.phase == SETUP and self.fault.events in (REGISTRATIONS,
                                                             STUCK)

    @property
    def return_path(self) -> bool:
        """Without it nobody hears of a device state that did not arrive."""
        return self.phase in (DEVICE, RETURN)

    @property
    def limit_s(self) -> float:
        connecting = self.phase in (CONNECTING, RETURN)
        return max(self.fault.limit_s, CONNECT_LIMIT_S if connecting else 0)

    @property
    def monitor_waits(self) -> bool:
        """QEMU holds its big lock while the stopped guest's last state goes
        out, over whatever transport; and a stopped source just waits."""
        return self.phase in (COMPLETION, DEVICE) or (
            self.fault.signal == "SIGSTOP" and self.side == SOURCE)

    bandwidth = ""              # of the link: as the machine copies

    @property
    def may_complete(self) -> bool:
        return (self.survives or self.fault.either or
                self.key in REPORT_ONLY)

    @property
    def survives(self) -> bool:
        """A source that is stopped for a while just goes on."""
        return self.fault.survives or (self.fault.signal == "SIGSTOP" and
                                       self.side == SOURCE)


def cells() -> Iterator[Case]:
    """All of them, those that do not apply (no event) as well."""
    for fault in FAULTS:
        for side in SIDES:
            for phase in PHASES:
                yield Case(fault, phase, side)


def check_short() -> None:
    """SHORT has a case of every fault, and only cases that can happen."""
    missing = {fault.name for fault in FAULTS} - {key[0] for key in SHORT}
    if missing:
        raise ValueError("plan.SHORT has no case of " + "; ".join(missing))
    wrong = SHORT - {case.key for case in cells() if case.event}
    if wrong:
        raise ValueError(f"plan.SHORT names cases that do not exist: {wrong}")


check_short()
