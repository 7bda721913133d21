# SPDX-License-Identifier: GPL-2.0-or-later
"""What scripts/bench recorded, as Markdown: medians, spread, and ratios.

A record is what bench's --json writes; see docs/benchmarks.md.
"""
import dataclasses
import pathlib
import re
import statistics
from typing import Any, Dict, List, Optional, Sequence, Tuple

from bench_run import METHODS

MIB = 1 << 20
STOCK = "stock:stock"
NOT_COPIED = ("RDMA Writes were accounted for and timed, not carried out "
              "(`--no-copy`).")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A column."""
    key: str
    heading: str
    factor: float = 1
    digits: int = 2


SPEED = (
    Figure("total_s", "total, s"),
    Figure("gbit_per_s", "throughput, Gbit/s"),
    Figure("converge_s", "without the limit, s"),
    Figure("setup_s", "setup, ms", 1000, 0),
    Figure("downtime_s", "downtime, ms", 1000, 0),
    Figure("transferred", "transferred, MiB", 1 / MIB, 1),
    Figure("rounds", "rounds", 1, 0),
)
COST = (
    Figure("cpu_per_gib_source", "CPU source, s/GiB", 1, 3),
    Figure("migration_cpu_per_gib", "of it migration threads", 1, 3),
    Figure("cpu_per_gib_dest", "CPU destination, s/GiB", 1, 3),
    Figure("pinned_peak_source", "pinned source, MiB", 1 / MIB, 0),
    Figure("pinned_peak_dest", "pinned destination, MiB", 1 / MIB, 0),
    Figure("rss_peak_source", "resident source, MiB", 1 / MIB, 0),
    Figure("rss_peak_dest", "resident destination, MiB", 1 / MIB, 0),
)
CORE = (
    Figure("seconds", "total, s", 1, 3),
    Figure("downtime_s", "downtime, ms", 1000, 1),
    Figure("gbit_per_s", "throughput, Gbit/s"),
    Figure("link_gbit_per_s", "link, Gbit/s"),
    Figure("share", "share of it"),
    Figure("stream_gbit_per_s", "device state, Gbit/s"),
    Figure("setup_s", "setup, ms", 1000, 1),
    Figure("cpu_s_source", "CPU source, s", 1, 3),
    Figure("cpu_s_dest", "CPU destination, s", 1, 3),
    Figure("pinned_peak_source", "pinned source, MiB", 1 / MIB, 0),
    Figure("pinned_peak_dest", "pinned destination, MiB", 1 / MIB, 0),
)

Spread = Tuple[float, float, float]             # median, least, most
Row = Tuple[str, str, Dict[str, Spread]]        # method, pair, by figure


def spread_of(values: Sequence[float]) -> Spread:
    return statistics.median(values), min(values), max(values)


def spreads(runs: List[Dict[str, Any]],
            figures: Sequence[Figure]) -> Dict[str, Spread]:
    """Of those figures that every run has."""
    found = {}
    for figure in figures:
        values = [run.get(figure.key) for run in runs]
        if all(isinstance(value, (int, float)) for value in values):
            found[figure.key] = spread_of(values)
    return found


def pairs_of(record: Dict[str, Any], workload: str) -> List[Tuple[str, str]]:
    """(method, pair) in the order of METHODS, ours first."""
    names = list(METHODS)
    found = {(run["method"], run["pair"]) for run in record["runs"]
             if run["workload"] == workload}
    return sorted(found, key=lambda key: (names.index(key[0]), key[1]))


def runs_of(record: Dict[str, Any], workload: str, method: str,
            pair: str) -> List[Dict[str, Any]]:
    wanted = (workload, method, pair)
    return [run for run in record["runs"]
            if (run["workload"], run["method"], run["pair"]) == wanted]


def summarise(record: Dict[str, Any], workload: str) -> List[Row]:
    return [(method, pair,
             spreads(runs_of(record, workload, method, pair), SPEED + COST))
            for method, pair in pairs_of(record, workload)]


def baseline(rows: List[Row], method: str) -> Optional[Dict[str, Spread]]:
    """Stock's figures with that method, or else with plain RDMA."""
    stock = {row[0]: row[2] for row in rows if row[1] == STOCK}
    return stock.get(method, stock.get("rdma"))


def cell(spread: Optional[Spread], figure: Figure,
         stock: Optional[Spread]) -> str:
    """median (least–most) ×ratio to stock's median"""
    if spread is None:
        return "–"
    median, least, most = (f"{value * figure.factor:.{figure.digits}f}"
                           for value in spread)
    text = median if least == most else f"{median} ({least}–{most})"
    if stock and stock[0] and spread[0]:
        text += f" ×{spread[0] / stock[0]:.2f}"
    return text


def pair_text(pair: str) -> str:
    source, dest = pair.split(":")
    return source if source == dest else f"{source} to {dest}"


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(rows: List[Row], figures: Sequence[Figure]) -> List[str]:
    figures = [figure for figure in figures
               if any(figure.key in row[2] for row in rows)]
    lines = [line(["method", "QEMU", *(f.heading for f in figures)]),
             line(["---", "---", *("---:" for _ in figures)])]
    for method, pair, by_figure in rows:
        stock = baseline(rows, method) or {}
        if by_figure is stock:
            stock = {}
        lines.append(line([
            METHODS[method].text, pair_text(pair),
            *(cell(by_figure.get(figure.key), figure, stock.get(figure.key))
              for figure in figures)]))
    return lines


def versions(record: Dict[str, Any]) -> str:
    found = {}
    for run in record["runs"]:
        for name, end in zip(run["pair"].split(":"), ("source", "dest")):
            found[name] = run["version"][end]
    text = ", ".join(f"{name} is QEMU {found[name]}" for name in sorted(found))
    return text[0].upper() + text[1:]


def core_table(runs: List[Dict[str, Any]]) -> List[str]:
    """Of rdma-bench: the transport core alone, without QEMU."""
    figures = [figure for figure in CORE
               if any(run.get(figure.key) is not None for run in runs)]
    lines = [line(["core alone", "setting",
                   *(figure.heading for figure in figures)]),
             line(["---", "---", *("---:" for _ in figures)])]
    names = list(dict.fromkeys((run.get("name", "?"), run.get("workload", ""))
                               for run in runs))
    for name in names:
        same = [run for run in runs
                if (run.get("name", "?"), run.get("workload", "")) == name]
        found = spreads(same, figures)
        lines.append(line([*map(str, name),
                           *(cell(found.get(figure.key), figure, None)
                             for figure in figures)]))
    return lines


def markdown(record: Dict[str, Any]) -> str:
    """All tables, a section for each workload."""
    where = record["where"]
    count = f"{where['runs']} run{'s' if where['runs'] > 1 else ''}"
    heading = [f"On {where['link']}. Median (least–most) of {count}."]
    if record["runs"]:
        heading += [f"{versions(record)}; × is beside stock's."]
    if where["no_copy"]:
        heading += [NOT_COPIED]
    lines = [" ".join(heading)]
    for name, load in record["workloads"].items():
        rows = summarise(record, name)
        if rows:
            lines += ["", f"**{name}**: {load['text']}", "",
                      *table(rows, SPEED), "", *table(rows, COST)]
    if record.get("core"):
        lines += ["", *core_table(record["core"])]
    for kind in ("skipped", "failed"):
        for item in record.get(kind, ()):
            lines += ["", f"{kind}: {item['workload']}, "
                      f"{METHODS[item['method']].text}, "
                      f"{pair_text(item['pair'])}: {item['reason']}"]
    return "\n".join(lines).strip()


def write_docs(path: pathlib.Path, name: str, text: str) -> None:
    """Put @text between <!-- bench NAME --> and <!-- end NAME --> of @path."""
    begin, end = f"<!-- bench {name} -->", f"<!-- end {name} -->"
    old = path.read_text(encoding="utf-8")
    place = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not place.search(old):
        raise ValueError(f"{path} has no '{begin}' and '{end}' after it")
    new = f"{begin}\n{text}\n{end}"
    path.write_text(place.sub(lambda _: new, old), encoding="utf-8")
