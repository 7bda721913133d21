# SPDX-License-Identifier: GPL-2.0-or-later
"""What happened on verbsim: a table of a trace directory, or JSON.

Used by scripts/verbsim summary.
"""
import json
import pathlib
from typing import Any, Dict, List, Optional, Tuple

from verbsim import Stats, VerbsimError, read_trace_stats

COLUMNS = 4             # processes in one table
SHOWN_FAULTS = 20       # of one process
NO_COPY = ("NO-COPY: Writes and Reads were accounted for, not carried out; "
           "the memory at the far side is not what was sent")

# Title, counter, kind; a kind of None is a heading.
ROWS: List[Tuple[str, str, Optional[str]]] = [
    ("sent", "", None),
    ("  SEND", "tx_send", "messages"),
    ("  RDMA Write", "tx_write", "messages"),
    ("  RDMA Read", "tx_read", "messages"),
    ("served for others", "", None),
    ("  SEND", "rx_send", "messages"),
    ("  RDMA Write", "rx_write", "messages"),
    ("  RDMA Read", "rx_read", "messages"),
    ("control messages sent", "", None),
    ("CONTROL", "", "control"),
    ("memory", "", None),
    ("  peak pinned", "pinned_peak", "peak bytes"),
    ("  pinned at the end", "pinned_bytes", "bytes"),
    ("  registrations", "registrations", "count"),
    ("  deregistrations", "deregistrations", "count"),
    ("  failed", "reg_failed", "count"),
    ("  time registering", "reg_ns", "time"),
    ("  peak regions", "mrs_peak", "peak"),
    ("events", "", None),
    ("  round trips", "turns", "count"),
    ("  completions", "completions", "count"),
    ("  completion events", "cq_events", "count"),
    ("  CM events", "cm_events", "count"),
    ("  receiver-not-ready", "rnr_naks", "count"),
    ("  refusals (NAK)", "naks", "count"),
    ("  lost on a dead link", "link_lost", "count"),
    ("  retransmissions", "retransmits", "count"),
    ("  faults on demand", "faults", "count"),
]


def read_faults(stats: Stats, folder: pathlib.Path) -> List[str]:
    """The trace's lines of faults that struck @stats' process."""
    path = folder / f"{stats.name}.{stats.pid}.trace"
    if not path.exists():
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in file
                if line.split(" ", 3)[2:3] == ["fault"]]


def summarize(folder: pathlib.Path) -> Dict[str, Any]:
    """All that the table shows, as plain data."""
    found = read_trace_stats(folder)
    if not found:
        raise VerbsimError(f"{folder} has no counters of verbsim (*.stats)")
    processes = [{
        "name": stats.name,
        "pid": stats.pid,
        "profile": stats.profile,
        "device": stats.device,
        "no_copy": stats.no_copy,
        "counters": {key: value for key, value in stats.items()
                     if not key.startswith("control_")},
        "control": stats.control(),
        "faults": read_faults(stats, folder),
    } for stats in found]
    sums = Stats()
    for stats in found:
        for key, value in stats.items():
            sums[key] = sums.get(key, 0) + value
    return {
        "directory": str(folder),
        "no_copy": any(stats.no_copy for stats in found),
        "processes": processes,
        # The sum of two peaks is no peak of anything.
        "together": {
            "counters": {key: value for key, value in sums.items()
                         if not key.startswith("control_") and
                         not key.endswith("_peak")},
            "control": sums.control(),
        },
    }


def as_bytes(count: int) -> str:
    """Powers of two, four digits at the most."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}" if unit != "B" else f"{count} B"
        value /= 1024
    return f"{value:.4g} TiB"


def as_time(ns: int) -> str:
    for unit, factor in (("ns", 1), ("us", 1e3), ("ms", 1e6)):
        if ns < 1000 * factor:
            return f"{ns / factor:.3g} {unit}"
    return f"{ns / 1e9:.3f} s"


def _cell(counters: Dict[str, int], key: str, kind: str) -> str:
    if key not in counters:
        return "-"
    value = counters[key]
    if kind == "messages":
        return f"{value} / {as_bytes(counters[key + '_bytes'])}" if value \
            else "0"
    if "bytes" in kind:
        return as_bytes(value)
    return as_time(value) if kind == "time" else str(value)


def _copy_rate(counters: Dict[str, int]) -> str:
    if not counters["copy_ns"]:
        return "-"
    rate = counters["copied_bytes"] / counters["copy_ns"]
    return f"{as_bytes(counters['copied_bytes'])} at {rate:.2f} GB/s"


def _table(columns: List[Dict[str, Any]]) -> List[List[str]]:
    """Rows of cells; what is zero everywhere is left out."""
    rows = [
        ["process"] + [column["title"] for column in columns],
        ["profile"] + [column["profile"] for column in columns],
        ["data copied here"] + [column["data"] for column in columns],
    ]
    for title, key, kind in ROWS:
        if kind is None:
            rows.append([title])
        elif kind == "control":
            used = {name for column in columns for name in column["control"]}
            rows += [[f"  {name}"] +
                     [str(column["control"].get(name, 0))
                      for column in columns] for name in sorted(used)]
        elif any(column["counters"].get(key) for column in columns):
            rows.append([title] + [_cell(column["counters"], key, kind)
                                   for column in columns])
        # A heading with nothing under it
        if len(rows) > 1 and kind is None and len(rows[-2]) == 1:
            del rows[-2]
    if len(rows[-1]) == 1:
        del rows[-1]
    return rows


def _columns(summary: Dict[str, Any]) -> List[Dict[str, Any]]:
    columns = [{
        "title": f"{process['name']} ({process['pid']})",
        "profile": process["profile"],
        "data": "NOT COPIED" if process["no_copy"]
                else _copy_rate(process["counters"]),
        "counters": process["counters"],
        "control": process["control"],
    } for process in summary["processes"]]
    if len(columns) > 1:
        together = summary["together"]
        columns.append({"title": "together", "profile": "",
                        "data": "NOT COPIED" if summary["no_copy"]
                                else _copy_rate(together["counters"]),
                        **together})
    return columns


def _align(rows: List[List[str]]) -> List[str]:
    count = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if len(row) > i)
              for i in range(count)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:],
                                                           widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return lines


def as_text(summary: Dict[str, Any]) -> str:
    """The table for people."""
    lines = []
    if summary["no_copy"]:
        lines += [f"*** {NO_COPY} ***", ""]
    columns = _columns(summary)
    for start in range(0, len(columns), COLUMNS):
        lines += _align(_table(columns[start:start + COLUMNS])) + [""]
    for process in summary["processes"]:
        faults = process["faults"]
        if faults:
            lines.append(f"faults of {process['name']} ({process['pid']})")
            lines += [f"  {line}" for line in faults[:SHOWN_FAULTS]]
            if len(faults) > SHOWN_FAULTS:
                lines.append(f"  and {len(faults) - SHOWN_FAULTS} more")
    return "\n".join(lines).rstrip()


def show(folder: pathlib.Path, as_json: bool) -> None:
    """Print the summary of a trace directory."""
    summary = summarize(folder)
    print(json.dumps(summary, indent=2) if as_json else as_text(summary))
