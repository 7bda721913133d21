# SPDX-License-Identifier: GPL-2.0-or-later
"""What a migration costs each side: processor time, memory, pinned memory.

A thread of its own reads it while the migration runs, because the monitor may
be blocked just when it matters.
"""
import pathlib
import re
import threading
import time
from typing import Any, Dict, List, Optional

from verbsim import Fabric, Process, Stats, VerbsimError

NIC_THREAD = "verbsim-nic"      # does what an adapter would
VCPU_THREAD = "CPU "            # runs the guest
KIB = re.compile(r"^(VmRSS|VmLck|VmPin):\s+(\d+) kB$", re.MULTILINE)
ASK_SECONDS = 0.5
SYSTEM_TICK = 100               # of /proc/*/stat, on every Linux


def _clock_of(pid: int) -> int:
    """The number of a process's CPU clock, as clock_getcpuclockid() has it."""
    return (~pid << 3) | 2


class Probe:
    """One QEMU process, looked at from outside."""

    def __init__(self, pid: int, fabric: Optional[Fabric] = None) -> None:
        self._pid = pid
        self._fabric = fabric
        self._nic: Optional[Process] = None
        self.stats = Stats()        # verbsim's counters, last seen
        self.threads = self._threads()
        self._cpu = self._process_s()
        self._before = dict(self.threads)

    def _process_s(self) -> float:
        """Of all its threads, those that have ended included."""
        return time.clock_gettime(_clock_of(self._pid))

    def _threads(self) -> Dict[str, float]:
        """{"id name": CPU seconds} of those that live."""
        found = {}
        for task in pathlib.Path(f"/proc/{self._pid}/task").iterdir():
            try:
                name = (task / "comm").read_text().strip()
                found[f"{task.name} {name}"] = self._thread_s(task)
            except (FileNotFoundError, ProcessLookupError):
                continue            # ended just now
        return found

    @staticmethod
    def _thread_s(task: pathlib.Path) -> float:
        try:
            return int((task / "schedstat").read_text().split()[0]) / 1e9
        except FileNotFoundError:
            fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / SYSTEM_TICK

    def sample(self) -> Dict[str, int]:
        """Bytes resident and pinned, now."""
        try:
            self.threads.update(self._threads())
            status = pathlib.Path(f"/proc/{self._pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return {"rss": 0, "pinned": 0}
        sizes = {name: int(kib) << 10 for name, kib in KIB.findall(status)}
        pinned = sizes.get("VmLck", 0) + sizes.get("VmPin", 0)
        if self._fabric:
            pinned = self._pinned_on_verbsim()
        return {"rss": sizes.get("VmRSS", 0), "pinned": pinned}

    def _pinned_on_verbsim(self) -> int:
        """verbsim pins nothing, it only accounts for it."""
        assert self._fabric is not None
        if self._nic is None:
            self._nic = next((found for found in self._fabric.processes()
                              if found.pid == self._pid), None)
        if self._nic is None:       # has opened no device yet
            return 0
        try:
            answer = self._fabric.ask(self._nic, "stats", ASK_SECONDS)
        except VerbsimError:        # has closed it
            self._nic = None
            return 0
        self.stats = Stats.parse(answer)
        return self.stats["pinned_bytes"]

    def cpu(self) -> Dict[str, Any]:
        """CPU seconds since the probe was made.

        What ran the guest and what verbsim does for an adapter is not the
        migration's.  "migration" is what its own threads took: all those that
        were not there before, ended or not.
        """
        whole = self._process_s() - self._cpu
        self.threads.update(self._threads())
        spent = {name: now - self._before.get(name, 0)
                 for name, now in self.threads.items()}

        def named(start: str) -> float:
            return sum(value for name, value in spent.items()
                       if name.split(" ", 1)[1].startswith(start))

        others = named(NIC_THREAD) + named(VCPU_THREAD)
        old = sum(spent[name] for name in self._before
                  if not name.split(" ", 1)[1].startswith((NIC_THREAD,
                                                           VCPU_THREAD)))
        return {
            "process": whole,
            "fabric": named(NIC_THREAD),
            "guest": named(VCPU_THREAD),
            "qemu": max(0.0, whole - others),
            "migration": max(0.0, whole - others - old),
            "threads": {name: round(value, 6)
                        for name, value in spent.items() if value > 0},
        }


class Sampler(threading.Thread):
    """Looks at both sides every @period seconds between start() and end()."""

    def __init__(self, probes: Dict[str, Probe], period: float) -> None:
        super().__init__(daemon=True)
        self._probes = probes
        self._period = period
        self._stop_it = threading.Event()
        self.began = time.monotonic()
        self.rows: List[Dict[str, Any]] = []

    def _look(self) -> None:
        row: Dict[str, Any] = {"t": round(time.monotonic() - self.began, 4)}
        for side, probe in self._probes.items():
            for what, value in probe.sample().items():
                row[f"{what}_{side}"] = value
        self.rows.append(row)

    def run(self) -> None:
        while not self._stop_it.wait(self._period):
            self._look()

    def end(self) -> None:
        """Stop, and look for the last time."""
        self._stop_it.set()
        self.join()
        self._look()

    def peak(self, what: str, side: str) -> int:
        """The most that was seen; verbsim knows for itself what was pinned."""
        seen = max((row[f"{what}_{side}"] for row in self.rows), default=0)
        if what == "pinned":
            seen = max(seen, self._probes[side].stats.get("pinned_peak", 0))
        return seen
