# SPDX-License-Identifier: GPL-2.0-or-later
"""One chart of a workload: how each method's migration went over time.

Also a program, for Debian's own Python, which has Debian's matplotlib:

    /usr/bin/python3 scripts/lib/bench_chart.py RECORD WORKLOAD CHART
"""
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import textwrap
from typing import Any, Dict, List, Sequence, Tuple

from bench_report import pair_text, pairs_of, runs_of
from bench_run import METHODS

MIB, GIB = 1 << 20, 1 << 30
DEBIAN_PYTHON = "/usr/bin/python3"
POINTS = 30                 # of a throughput line, at most
DPI = 110
LEGEND_COLUMNS = 3
# Blue and green ours, orange stock, grey TCP; also for the colour-blind
COLOURS = {
    ("rdma", "ours:ours"): "#0072b2",
    ("rdma-pin-all", "ours:ours"): "#56b4e9",
    ("rdma-pin-limit", "ours:ours"): "#009e73",
    ("rdma", "stock:stock"): "#d55e00",
    ("rdma-pin-all", "stock:stock"): "#e69f00",
    ("rdma", "ours:stock"): "#cc79a7",
    ("rdma-pin-all", "ours:stock"): "#8c4a76",
    ("rdma", "stock:ours"): "#8b5a2b",
    ("rdma-pin-all", "stock:ours"): "#c49a6c",
    ("tcp", "ours:ours"): "#222222",
    ("multifd-2", "ours:ours"): "#777777",
    ("multifd-4", "ours:ours"): "#b0b0b0",
}
SPARE_COLOUR = "#b8a800"
INK = "#333333"

Points = Tuple[List[float], List[float]]


class NoMatplotlib(Exception):
    """The charts need it."""


def median_run(runs: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """The run that took the median time, or the next longer one."""
    return sorted(runs, key=lambda run: run["total_s"])[len(runs) // 2]


def _rows(run: Dict[str, Any]) -> List[Tuple[float, int, int]]:
    """(time, transferred, remaining), with the setup, until the end.

    What was asked before the end may be answered after it.
    """
    whole = run["info"]["ram"]["total"]
    rows = [(row["t"], row["transferred"], row["remaining"])
            for row in run["timeline"]["migration"]
            if row["t"] > run["setup_s"]]
    return [(0.0, 0, whole), (run["setup_s"], 0, whole),
            *((min(at, run["total_s"]), moved, left)
              for at, moved, left in rows)]


def throughput(run: Dict[str, Any]) -> Points:
    """Gbit/s over time: at most POINTS stretches of about the same length."""
    rows = _rows(run)
    step = run["total_s"] / POINTS
    times, rates, (begin, before, _) = [0.0, rows[1][0]], [0.0, 0.0], rows[1]
    for row in rows[2:]:
        at, moved, _ = row
        if at - begin >= step or row is rows[-1] and at > begin:
            times.append((at + begin) / 2)
            rates.append(max(0, moved - before) * 8 / (at - begin) / 1e9)
            begin, before = at, moved
    return times + [run["total_s"]], rates + [0.0]


def remaining(run: Dict[str, Any]) -> Points:
    rows = _rows(run)
    return [row[0] for row in rows], [row[2] / GIB for row in rows]


def pinned(run: Dict[str, Any], side: str) -> Points:
    rows = [row for row in run["timeline"]["processes"]
            if row["t"] <= run["total_s"]]
    return ([row["t"] for row in rows],
            [row[f"pinned_{side}"] / MIB for row in rows])


def _python() -> str:
    """A Python that has matplotlib: this one, or else Debian's."""
    if importlib.util.find_spec("matplotlib"):
        return sys.executable
    probe = [DEBIAN_PYTHON, "-c", "import matplotlib"]
    try:
        subprocess.run(probe, check=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        raise NoMatplotlib("charts need matplotlib: apt-get install "
                           "python3-matplotlib") from None
    return DEBIAN_PYTHON


def require_matplotlib() -> None:
    """Before hours of measuring, say."""
    _python()


def _pyplot() -> Any:
    from matplotlib import pyplot
    pyplot.switch_backend("agg")
    pyplot.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "rmig", "font.size": 9,
        "font.family": "sans-serif", "text.color": INK,
        "axes.labelcolor": INK, "axes.edgecolor": "#999999",
        "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6,
        "xtick.color": INK, "ytick.color": INK, "axes.axisbelow": True,
        "axes.titlesize": 9.5, "axes.titleweight": "bold",
        "axes.titlelocation": "left"})
    return pyplot


def _draw(axes: Any, run: Dict[str, Any], look: Dict[str, Any],
          label: str) -> None:
    speed, memory, left = axes
    speed.plot(*throughput(run), label=label, **look)
    if run["pinned_peak_source"] or run["pinned_peak_dest"]:
        memory.plot(*pinned(run, "source"), **look)
        memory.plot(*pinned(run, "dest"), **dict(look, linestyle=(0, (3, 2))))
    left.plot(*remaining(run), **look)
    left.plot([run["total_s"]], [0], marker="o", markersize=4,
              color=look["color"], clip_on=False, zorder=5)


def _finish(figure: Any, axes: Any, foot: Any, record: Dict[str, Any],
            workload: str) -> None:
    from matplotlib.lines import Line2D
    titles = ("Throughput", "Pinned memory", "RAM still to send")
    units = ("Gbit/s", "MiB", "GiB")
    for panel, title, unit in zip(axes, titles, units):
        panel.set_title(title)
        panel.set_ylabel(unit)
        panel.set_ylim(bottom=0)
        panel.margins(x=0.01)
    axes[-1].set_xlim(left=0)
    axes[-1].set_xlabel("seconds since the migration began "
                        "(dots: its end)")
    axes[1].legend(handles=[
        Line2D([], [], color=INK, label="source"),
        Line2D([], [], color=INK, linestyle=(0, (3, 2)),
               label="destination")],
        loc="lower right", bbox_to_anchor=(1, 0.98), frameon=False, ncol=2,
        borderaxespad=0)
    where = record["where"]
    note = ", nothing copied" if where["no_copy"] else ""
    text = textwrap.fill(record["workloads"][workload]["text"], 90)
    figure.suptitle(f"{text}\n{where['link']}{note}", x=0.01, ha="left",
                    fontsize=11)
    names = axes[0].get_legend_handles_labels()
    foot.axis("off")
    foot.legend(*names, loc="center left", ncol=LEGEND_COLUMNS, frameon=False,
                handlelength=1.6, borderaxespad=0)


def _panels(pyplot: Any, lines: int) -> Tuple[Any, Any, Any]:
    """The figure, three panels that share their time, room for a legend."""
    height = 0.22 * -(-lines // LEGEND_COLUMNS) + 0.1
    figure = pyplot.figure(figsize=(8.4, 7.6 + height), layout="constrained")
    grid = figure.add_gridspec(4, 1, height_ratios=[3, 2, 2, height])
    first = figure.add_subplot(grid[0])
    axes = [first, *(figure.add_subplot(grid[row], sharex=first)
                     for row in (1, 2))]
    for panel in axes[:-1]:
        panel.tick_params(labelbottom=False)
    return figure, axes, figure.add_subplot(grid[3])


def _draw_here(record: Dict[str, Any], workload: str,
               path: pathlib.Path) -> None:
    pyplot = _pyplot()
    pairs = pairs_of(record, workload)
    figure, axes, foot = _panels(pyplot, len(pairs))
    for method, pair in pairs:
        run = median_run(runs_of(record, workload, method, pair))
        look = {"color": COLOURS.get((method, pair), SPARE_COLOUR),
                "linewidth": 1.8 if METHODS[method].scheme == "rdma" else 1.3}
        label = (f"{METHODS[method].text}, {pair_text(pair)}: "
                 f"{run['total_s']:.2f} s")
        _draw(axes, run, look, label)
    _finish(figure, axes, foot, record, workload)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=DPI, metadata=metadata)
    pyplot.close(figure)


def draw_chart(record: Dict[str, Any], workload: str,
               path: pathlib.Path) -> None:
    """Write it to @path; its suffix says as what, .svg or .png."""
    python = _python()
    if python == sys.executable:
        _draw_here(record, workload, path)
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(record, file)
        file.flush()
        subprocess.run([python, __file__, file.name, workload, str(path)],
                       check=True)


if __name__ == "__main__":
    _draw_here(json.loads(pathlib.Path(sys.argv[1]).read_text()), sys.argv[2],
               pathlib.Path(sys.argv[3]))
