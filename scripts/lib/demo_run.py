# SPDX-License-Identifier: GPL-2.0-or-later
"""The demonstration proper: migrate a running guest and say how it went.

scripts/demo chooses where this runs; here an address to migrate over is given.
"""
import dataclasses
import json
import pathlib
import socket
import time
from typing import Any, Dict, List, Optional, Tuple

from guest import BEAT_SECONDS, Pulse, Workload
from progress import ProgressLine, bar, mib
from vmpair import FINAL_STATES, MigrationResult, VmPair

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
UNLIMITED = 1 << 40             # bytes per second, for max-bandwidth
SETTLE_BEATS = 10               # watched before and after the migration
RATE_SECONDS = 1.0
BAR_WIDTH = 18
COLUMNS = "  {:18}{:>5}{:>11}{:>11}{:>11}{:>11}{:>10}"


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """What the user chose."""
    qemu: str
    transport: str
    host: str                   # address as the URI wants it
    pin_all: bool
    workload: Workload
    timeout: float
    keep: Optional[pathlib.Path]
    terminal: bool


def say(label: str, text: str) -> None:
    print(f"  {label:16}{text}", flush=True)


def short_path(path: str) -> str:
    """As one would type it in the repository, or at home."""
    for start, instead in ((REPO, ""), (pathlib.Path.home(), "~/")):
        try:
            return instead + str(pathlib.Path(path).relative_to(start))
        except ValueError:
            continue
    return path


def free_port(host: str) -> int:
    """A TCP port that nothing listens on; RDMA's port space is its own."""
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host.strip("[]"), 0))
        return probe.getsockname()[1]


class LiveView:
    """Turns query-migrate's answers into the progress line."""

    def __init__(self, options: DemoOptions, pair: VmPair) -> None:
        self._pair = pair
        self._line = ProgressLine(options.terminal)
        self._seen: List[Tuple[float, int]] = []
        self._dirty = "-"
        self._rate = 0.0
        self.samples: List[Dict[str, Any]] = []

    @staticmethod
    def heading() -> None:
        print(COLUMNS.format("", "", "sent", "left", "per second",
                             "dirtied/s", "heartbeat"))

    def _measure(self, now: float, transferred: int) -> float:
        """Bytes a second, over the last second or so."""
        self._seen.append((now, transferred))
        while len(self._seen) > 2 and now - self._seen[1][0] > RATE_SECONDS:
            self._seen.pop(0)
        begin, before = self._seen[0]
        return (transferred - before) / (now - begin) if now > begin else 0

    def update(self, info: Dict[str, Any]) -> None:
        self.samples.append(info)
        ram = info.get("ram")
        if not ram or not ram["total"]:
            self._line.show(f"  {info.get('status', 'starting')} ...")
            return
        if ram["dirty-pages-rate"]:     # known from the second round on
            self._dirty = mib(ram["dirty-pages-rate"] * ram["page-size"])
        fraction = 1 - ram["remaining"] / ram["total"]
        if info["status"] not in FINAL_STATES:      # then the last one stays
            self._rate = self._measure(time.monotonic(), ram["transferred"])
        self._line.show(COLUMNS.format(
            bar(fraction, BAR_WIDTH), f"{fraction:.0%}",
            mib(ram["transferred"]), mib(ram["remaining"]),
            mib(self._rate), self._dirty, self._pair.console.beats[-1].number))

    def end(self) -> None:
        self._line.end()


def show_console(pair: VmPair, where: str) -> None:
    say("serial console", f"{pair.console.lines[-1][1]}   <- at the {where}")


def describe_setup(options: DemoOptions, version: str) -> None:
    load = options.workload
    pin = ", pin-all" if options.pin_all else ""
    say("transport", f"{options.transport}{pin}, {options.host}")
    say("QEMU", f"{version}, {short_path(options.qemu)}")
    say("guest", f"{load.memory_mib} MiB of memory, {load.random_mib} MiB of "
        "it random;")
    say("", f"rewrites a hot set of {load.hot_mib:g} MiB "
        f"at {load.dirty_mib_per_s:g} MiB/s")
    print()


def show_table(result: MigrationResult, pulse: Pulse, page: int) -> None:
    rate = result.transferred / max(1, result.total_ms) * 1000
    say("total time", f"{result.total_ms / 1000:.2f} s, "
        f"{result.setup_ms / 1000:.2f} s of it setup")
    say("downtime", f"{result.downtime_ms} ms")
    say("sent", f"{mib(result.transferred)} in {result.rounds} rounds, "
        f"{mib(rate)}/s on average")
    say("normal pages", f"{result.normal_pages:7,}  "
        f"({mib(result.normal_pages * page)})")
    say("zero pages", f"{result.zero_pages:7,}  "
        f"({mib(result.zero_pages * page)} that did not travel)")
    say("heartbeat", f"{pulse.beats} beats, {pulse.lost} lost; one is due "
        f"every {BEAT_SECONDS * 1000:.0f} ms,")
    say("", f"longest gap {pulse.longest_gap_s * 1000:.0f} ms, "
        f"{pulse.missed} missed meanwhile")
    print()


def prove_intact(pair: VmPair) -> None:
    """Three looks at the memory; each raises if it finds damage."""
    outside = pair.verify(running=True)
    say("from outside", f"{mib(outside.compared)} of {mib(outside.size)} "
        "equal byte for byte on both sides;")
    say("", "the rest is what the running guest rewrites")
    pages = pair.guest_verify()
    say("by the guest", f"{pages:,} pages re-read at the destination, "
        "hot set included:")
    say("", "each as it was written")
    say("states", f"source {pair.source.status()}, "
        f"destination {pair.there.status()}")


def keep_records(directory: pathlib.Path, pair: VmPair, view: LiveView,
                 result: Optional[MigrationResult],
                 pulse: Optional[Pulse]) -> None:
    """Write console, stderr and figures into the user's directory."""
    directory.mkdir(parents=True, exist_ok=True)
    console = "".join(f"{at:.6f} {line}\n" for at, line in pair.console.lines)
    (directory / "console.txt").write_text(console)
    for vm in (pair.source, pair.destination):
        if vm is not None:
            (directory / f"{vm.name}.stderr").write_text(vm.stderr_text())
    record = {"result": dataclasses.asdict(result) if result else None,
              "heartbeat": dataclasses.asdict(pulse) if pulse else None,
              "progress": view.samples}
    (directory / "result.json").write_text(json.dumps(record, indent=1) + "\n")


def migrate_and_show(options: DemoOptions, pair: VmPair) -> None:
    port = free_port(options.host)
    uri = f"{options.transport}:{options.host}:{port}"
    view = LiveView(options, pair)
    result, pulse = None, None
    try:
        pair.start_source()
        describe_setup(options, pair.source.qmp.version)
        pair.console.wait_ready()
        pair.console.wait_beats(SETTLE_BEATS)
        show_console(pair, "source")
        pair.start_destination(uri)
        pair.source.set_parameters(max_bandwidth=UNLIMITED)
        if options.pin_all:
            pair.set_capabilities(rdma_pin_all=True)
        print()
        view.heading()
        begin = time.monotonic()
        try:
            result = pair.migrate(uri, timeout=options.timeout,
                                  on_progress=view.update, period=0.1)
        finally:
            view.end()
            print()
        pair.console.wait_beats(SETTLE_BEATS)
        pulse = pair.console.pulse(begin, time.monotonic())
        show_console(pair, "destination")
        print()
        show_table(result, pulse, result.info["ram"]["page-size"])
        prove_intact(pair)
    finally:
        if options.keep is not None:
            keep_records(options.keep, pair, view, result, pulse)


def run_demo(options: DemoOptions) -> None:
    """Raises if the migration or a proof fails."""
    print("\nA running guest moves from one QEMU to another\n")
    with VmPair(options.qemu, workload=options.workload) as pair:
        migrate_and_show(options, pair)
    print(f"\nThe guest moved over {options.transport.upper()} and its memory "
          "is intact.")
