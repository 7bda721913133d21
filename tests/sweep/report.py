# SPDX-License-Identifier: GPL-2.0-or-later
"""The fault sweep's table, docs/fault-sweep.md, from kept results."""
import dataclasses
import json
import pathlib
from typing import Dict, Iterable, List, Tuple

import plan
import plan_end
from drive import PROBLEMS, Result

Key = Tuple[str, str, str, str]         # qemu, fault, phase, side

# In cells; "hang" and "crash" are spelt out.
MARKS = {"unreached": "?", "two": "two guests", "none": "no guest",
         "silent": "S", "guest": "guest lost", "broke": "breaks",
         "unnoticed": "unnoticed", "damage": "damage", "crash": "crash",
         "hang": "hang", "destination": "D", "leak": "L", "error": "E",
         "monitor": "M", "next": "N"}
QEMUS = ("ours", "stock")

HEAD = """# Fault sweep

What becomes of a migration over RDMA when something breaks: every fault, at
every phase, on each side, with this project's transport ("ours") and with
Debian's QEMU 10.0 ("stock"). Real QEMUs with a working guest, over
[verbsim](verbsim.md), which makes the fault happen. This file is written by

    tests/sweep/run --table docs/fault-sweep.md

A case passes when the migration ends as it should within its limit, no QEMU
crashes, the source's guest runs on and the destination's does not, or the other
way round, never both, both sides let everything go (memory
regions, pinned memory, queue pairs, completion queues, domains, identifiers),
each side's error names the cause as it sees it (not asked of a destination in
connecting: it listens on), the monitor answers within 5 s (but for completion
and device state, in which QEMU keeps it waiting while the last of a stopped
guest goes out, over any transport), and all memory arrives, compared byte for
byte: by the migration itself where it goes on, else by a following one from the
same source to a fresh destination. That goes over RDMA again, except after the
removal of the source's device: then a migration over RDMA must fail, and the
one that follows goes over a unix socket. After a source is killed there is
none: nothing is left to migrate.

Exempt are two cases of the return path at the destination, "receive: too small"
and "CM disconnect": QEMU drops the error of a return path that it sends on, so
that the destination says only that the source gave up or closed the connection.
The source, there too, must name the cause.

"""


def load(path: pathlib.Path) -> Dict[Key, Result]:
    """What earlier runs have kept; the newest of each case."""
    kept: Dict[Key, Result] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            result = Result(**json.loads(line))
            kept[(result.qemu, *result.case)] = result
    return kept


def keep(path: pathlib.Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(result)) + "\n")


def short(result: Result) -> str:
    """What happened, as a cell says it."""
    marks = [MARKS[problem] for problem in result.problems]
    words = [mark for mark in marks if len(mark) > 1]
    letters = [mark for mark in marks if len(mark) == 1]
    if words:
        text = ", ".join(words)
    elif result.guest.startswith("stopped"):
        text = f"{result.seconds:.1f} s, {result.guest}"
    elif result.ended == "completed":
        text = "goes on"
    elif result.ended == "killed":
        text = f"{result.destination_seconds:.1f} s"
    else:
        text = f"{result.seconds:.1f} s"
        if result.destination == "completed":
            text += " +"
        if result.waited_for:
            text = f"waits for {result.waited_for}"
    if not letters and not words:
        return text
    return f"**{text}{' ' if letters else ''}{''.join(letters)}**"


def _cell(kept: Dict[Key, Result], qemu: str, case: plan.Case) -> str:
    if not case.event:
        return "–"
    result = kept.get((qemu, *case.key))
    return short(result) if result else "not run"


def _row(kept: Dict[Key, Result], fault: plan.Fault, side: str,
         qemu: str, sides: List[str]) -> str:
    cells = [_cell(kept, qemu, plan.Case(fault, phase, side))
             for phase in plan.PHASES]
    first = qemu == QEMUS[0]
    head = [fault.name if first and side == sides[0] else "",
            side if first else "", qemu]
    return "| " + " | ".join(head + cells) + " |"


def _legend(kept: Iterable[Result]) -> List[str]:
    seen = {problem for result in kept for problem in result.problems}
    lines = ["A cell says how long after the fault the migration had failed "
             "(for a killed source:", "how long until the destination had), "
             "or that it *goes on* and completes. **Bold** is", "wrong:", ""]
    for problem, text in PROBLEMS.items():
        if problem in seen:
            lines.append(f"- **{MARKS[problem]}**: {text}")
    lines += ["", "\\+ : the destination has completed as well: only its word "
              "for that was lost.", "It was started with -S, as by libvirt, and "
              "starts nothing by itself: whoever", "manages the two keeps to "
              "the source's word, and kills it.", "",
              "– : the fault cannot happen there:", ""]
    for fault in plan.FAULTS:
        if any(key not in fault.events for key in plan.ANYTHING):
            lines.append(f"- {fault.name}: {fault.why_not}")
    lines += ["", "Limits in seconds, in connecting and return path at least "
              f"{plan.CONNECT_LIMIT_S}:", ""]
    limits: Dict[float, List[str]] = {}
    for fault in plan.FAULTS:
        limits.setdefault(fault.limit_s, []).append(fault.name)
    for limit, names in sorted(limits.items()):
        lines.append(f"- {limit:.0f}: " + "; ".join(names))
    return lines


def _summary(kept: Dict[Key, Result]) -> List[str]:
    """How many cases have which problem; one can have several."""
    of = {qemu: [result for key, result in kept.items() if key[0] == qemu]
          for qemu in QEMUS}
    rows = [("cases", [len(of[qemu]) for qemu in QEMUS]),
            ("pass", [sum(result.ok for result in of[qemu])
                      for qemu in QEMUS])]
    for problem, text in PROBLEMS.items():
        counts = [sum(problem in result.problems for result in of[qemu])
                  for qemu in QEMUS]
        if any(counts):
            rows.append((text, counts))
    lines = ["| | " + " | ".join(QEMUS) + " |", "| --- | --- | --- |"]
    lines += [f"| {text} | " + " | ".join(map(str, counts)) + " |"
              for text, counts in rows]
    return lines + ["", "A case can have several problems.", ""]


END_HEAD = """
## The end

The last messages of a migration, one by one: each is held back, or broken, and
then exactly one guest must be left, whatever the two were set up with. The
guest is looked at in both QEMUs all the time; when all has settled, whoever
manages the two does what [rdma.txt](rdma.txt) says, "The end of a migration",
and then the guest must run in exactly one of them, with all its memory.

"source" and "destination" in a fault's name: where it strikes; else where the
message leaves. A stock QEMU has no messages between the last bytes and the
report.

"""
END_LEGEND = """
Beside the marks above: *stopped*: the destination was told to start the guest
and did not confirm it. The source's guest stays stopped, its error says so, and
the guest is then found *there*, or resumed *here* by "cont". *waits for*: the
source waits on purpose, for what query-migrate says, until it is cancelled,
which works at once. A number of seconds with + and -S: the destination has
completed as well, but starts nothing by itself; who manages the two keeps to
the source's word, and kills it.
"""


def _end_rows(kept: Dict[Key, Result]) -> List[str]:
    lines = ["| fault | options | QEMU | " + " | ".join(plan_end.STEPS) + " |",
             "|" + " --- |" * (3 + len(plan_end.STEPS))]
    rows: Dict[Tuple[str, str], None] = {}
    for case in plan_end.cells("ours"):
        rows[(case.fault.name, case.options)] = None
    last = ""
    for fault, options in rows:
        for qemu in QEMUS:
            cells = [kept.get((qemu, fault, step, options))
                     for step in plan_end.STEPS]
            if not any(cells):
                continue
            first = qemu == QEMUS[0]
            head = [fault if first and fault != last else "",
                    options if first else "", qemu]
            lines.append("| " + " | ".join(
                head + [short(cell) if cell else "–" for cell in cells]) +
                " |")
        last = fault
    return lines


def write_table(path: pathlib.Path, kept: Dict[Key, Result]) -> None:
    known = {(qemu, *case.key) for case in plan.cells() if case.event
             for qemu in QEMUS}
    known |= {(qemu, *case.key) for qemu in QEMUS
              for case in plan_end.cells(qemu)}
    kept = {key: result for key, result in kept.items() if key in known}
    lines = _summary(kept)
    lines += ["| fault | side | QEMU | " + " | ".join(plan.PHASES) + " |",
              "|" + " --- |" * (3 + len(plan.PHASES))]
    for fault in plan.FAULTS:
        sides = [side for side in plan.SIDES
                 if any(key[1] == side for key in fault.events)]
        for side in sides:
            lines += [_row(kept, fault, side, qemu, sides) for qemu in QEMUS]
    lines += ["", *_legend(kept.values())]
    text = HEAD + "\n".join(lines) + "\n" + END_HEAD
    text += "\n".join(_end_rows(kept)) + "\n" + END_LEGEND
    path.write_text(text, encoding="utf-8")
