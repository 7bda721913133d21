# SPDX-License-Identifier: GPL-2.0-or-later
"""One measured migration, and the methods that scripts/bench compares."""
import dataclasses
import pathlib
import re
import time
from typing import Any, Dict, List, Mapping, Optional, Tuple

from bench_load import Load
from bench_sample import Probe, Sampler
from demo_run import UNLIMITED, free_port
from qmp import QmpError
from vmpair import FINAL_STATES, MigrationError, MigrationResult, Vm, VmPair

PIN_LIMIT = "rdma-pin-limit"
SIDES = ("source", "dest")
PERIOD_S = 0.02
MEMINFO = pathlib.Path("/proc/meminfo")


class Skip(Exception):
    """These QEMUs, or this machine, cannot run that method."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to migrate."""
    name: str
    text: str
    scheme: str = "rdma"
    capabilities: Tuple[str, ...] = ()
    channels: int = 0
    pin_limit: bool = False

    @property
    def stock_has_it(self) -> bool:
        """Whether stock's is another: its TCP is ours."""
        return self.scheme == "rdma" and not self.pin_limit


METHODS = {method.name: method for method in (
    Method("rdma", "RDMA"),
    Method("rdma-pin-all", "RDMA, pin-all", capabilities=("rdma_pin_all",)),
    Method("rdma-pin-limit", "RDMA, pin limit", pin_limit=True),
    Method("tcp", "TCP", scheme="tcp"),
    Method("multifd-2", "TCP, multifd 2", scheme="tcp",
           capabilities=("multifd",), channels=2),
    Method("multifd-4", "TCP, multifd 4", scheme="tcp",
           capabilities=("multifd",), channels=4),
)}


@dataclasses.dataclass(frozen=True)
class Setup:
    """Where all runs take place."""
    binaries: Mapping[str, str]     # "ours", "stock": the programs
    host: str
    fabric: Optional[Any] = None    # verbsim's Fabric, if that is the device
    no_copy: bool = False
    verify: bool = True
    pin_limit: int = 0              # bytes
    timeout: float = 120
    period: float = PERIOD_S

    def vm_options(self) -> Dict[str, Any]:
        if not self.fabric:
            return {}
        env = self.fabric.env()
        env.pop("VERBSIM_NAME", None)   # the Vm's own
        return {"env": env}

    def copies(self, method: Method) -> bool:
        return method.scheme == "tcp" or not self.no_copy


def _set_pin_limit(vm: Vm, limit: int) -> None:
    try:
        vm.set_parameters(**{PIN_LIMIT: limit})
    except QmpError as error:
        if "unexpected" not in error.desc:
            raise
        raise Skip(f"QEMU {vm.qmp.version} of the {vm.name} has no parameter "
                   f"{PIN_LIMIT}") from None


def _configure(pair: VmPair, method: Method, load: Load, setup: Setup) -> None:
    capabilities, parameters = load.settings()
    capabilities.update((name, True) for name in method.capabilities)
    if method.channels:
        parameters["multifd_channels"] = method.channels
    parameters["max_bandwidth"] = load.limit or UNLIMITED
    for vm in (pair.there, pair.source):
        if method.pin_limit:
            _set_pin_limit(vm, setup.pin_limit)
        if capabilities:
            vm.set_capabilities(**capabilities)
        vm.set_parameters(**parameters)


def require_memory(method: Method, load: Load) -> None:
    """Skip what needs more than there is, for both ends.

    Pinning all of a guest fills what it never touched.
    """
    if load.private and "rdma_pin_all" not in method.capabilities:
        return
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMINFO.read_text(),
                      re.MULTILINE)
    wanted = 2 * load.moved_bytes
    if match and wanted > int(match[1]) << 10:
        raise Skip(f"needs {wanted >> 30} GiB of memory, and "
                   f"{int(match[1]) >> 20} GiB are free")


class Watcher:
    """Keeps what query-migrate said; ends the limit when its time is over."""

    def __init__(self, pair: VmPair, load: Load) -> None:
        self._pair = pair
        self._limited = bool(load.limit)
        self._limit_s = load.limit_s
        self._began = time.monotonic()
        self.rows: List[Dict[str, Any]] = []
        self.limited: Optional[Dict[str, Any]] = None  # how it went so far

    def look(self, info: Dict[str, Any]) -> None:
        now = time.monotonic() - self._began
        ram = info.get("ram")
        if ram:
            self.rows.append({
                "t": round(now, 4), "transferred": ram["transferred"],
                "remaining": ram["remaining"],
                "dirty_pages_rate": ram.get("dirty-pages-rate", 0),
                "rounds": ram.get("dirty-sync-count", 0)})
        if (self._limited and self.rows and now >= self._limit_s
                and info.get("status") not in FINAL_STATES):
            self._lift(now)

    def _lift(self, now: float) -> None:
        self._pair.source.set_parameters(max_bandwidth=UNLIMITED)
        self._limited = False
        last = self.rows[-1]
        self.limited = {
            "seconds": now, "rounds": last["rounds"],
            "gbit_per_s": last["transferred"] * 8 / now / 1e9,
            "remaining_least": min(row["remaining"] for row in self.rows)}


def _figures(result: MigrationResult, load: Load,
             sampler: Sampler, cpu: Dict[str, Dict[str, Any]]
             ) -> Dict[str, Any]:
    ram_s = max(1, result.total_ms - result.setup_ms) / 1000
    gib = load.moved_bytes / (1 << 30)
    record: Dict[str, Any] = {
        "total_s": result.total_ms / 1000, "setup_s": result.setup_ms / 1000,
        "downtime_s": result.downtime_ms / 1000,
        "transferred": result.transferred,
        "normal_pages": result.normal_pages, "zero_pages": result.zero_pages,
        "rounds": result.rounds, "qemu_mbps": result.mbps,
        "gbit_per_s": result.transferred * 8 / ram_s / 1e9,
        "guest_gib_per_s": gib / max(0.001, result.total_ms / 1000),
        "migration_cpu_per_gib": cpu["source"]["migration"] / gib,
        "cpu": cpu,
    }
    for side in SIDES:
        record[f"cpu_per_gib_{side}"] = cpu[side]["qemu"] / gib
        for what in ("rss", "pinned"):
            record[f"{what}_peak_{side}"] = sampler.peak(what, side)
    return record


def _end_failed(pair: VmPair, error: MigrationError) -> None:
    """Cancel what still goes on when its time is over."""
    if error.status not in FINAL_STATES and pair.source.alive():
        pair.source.qmp.cmd("migrate_cancel")


def _measure(pair: VmPair, uri: str, load: Load,
             setup: Setup) -> Dict[str, Any]:
    probes = {"source": Probe(pair.source.pid, setup.fabric),
              "dest": Probe(pair.there.pid, setup.fabric)}
    sampler = Sampler(probes, setup.period)
    watcher = Watcher(pair, load)
    before = time.process_time()
    sampler.start()
    try:
        result = pair.migrate(uri, timeout=setup.timeout,
                              on_progress=watcher.look, period=setup.period)
    except MigrationError as error:
        _end_failed(pair, error)
        error.timeline = {"migration": watcher.rows, "processes": sampler.rows}
        raise
    finally:
        sampler.end()
    cpu = {side: probe.cpu() for side, probe in probes.items()}
    record = _figures(result, load, sampler, cpu)
    record["info"] = result.info
    record["rdma"] = result.info.get("rdma")
    record["observer_cpu_s"] = time.process_time() - before
    record["limited"] = watcher.limited
    if watcher.limited:
        record["converge_s"] = result.total_ms / 1000 - watcher.limited[
            "seconds"]
    record["fabric"] = {side: dict(probe.stats)
                        for side, probe in probes.items() if probe.stats}
    record["timeline"] = {"migration": watcher.rows, "processes": sampler.rows}
    return record


def run_once(setup: Setup, method: Method, pair_name: str,
             load: Load) -> Dict[str, Any]:
    """Migrate once; all figures.  @pair_name: "ours:stock", source first."""
    require_memory(method, load)
    source, dest = (setup.binaries[side] for side in pair_name.split(":"))
    options = {**setup.vm_options(), **load.vm_options(setup.no_copy)}
    with VmPair(source, dest, load.guest, **options) as pair:
        pair.start_source()
        pair.console.wait_ready()
        load.prepare(pair)
        pair.start_destination(paused=True)
        _configure(pair, method, load, setup)
        uri = f"{method.scheme}:{setup.host}:{free_port(setup.host)}"
        try:
            pair.listen(uri)
        except QmpError as error:
            raise MigrationError(str(error), {}) from error
        record = _measure(pair, uri, load, setup)
        record["version"] = {"source": pair.source.qmp.version,
                             "dest": pair.there.qmp.version}
        record["verified"] = setup.verify and setup.copies(method)
        if record["verified"]:
            load.verify(pair)
    return record
