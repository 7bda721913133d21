# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process holds of the RDMA device and of the kernel, and what it kept.

Read from outside: the device's objects from the kernel's resource tracking
(rdma resource), the rest from /proc. Objects of the kernel's own carry its
modules' names ("comm") and no process id.
"""

import collections
import dataclasses
import json
import os
import re
import subprocess
import time

from labtest import CheckFailed, LabError

KINDS = ("qp", "cq", "mr", "pd", "cm_id")
# librdmacm opens a device once and keeps it open as long as the process lives.
OPEN_DEVICE = ("/dev/infiniband/uverbs", "anon_inode:[infinibandevent]")
RELEASE_SECONDS = 5


def _objects(pid):
    """The device's objects that @pid holds, by kind.

    The kernel knows the thread that made an object, and nobody once that
    thread has ended: such objects are counted too, whoever's they are.
    """
    threads = {int(tid) for tid in os.listdir(f"/proc/{pid}/task")}
    batch = "".join(f"resource show {kind}\n" for kind in KINDS)
    run = subprocess.run(["rdma", "-j", "-b", "/dev/stdin"], input=batch,
                         capture_output=True, text=True)
    if run.returncode != 0:
        raise LabError(f"'rdma resource show' failed (it needs root): "
                       f"{run.stderr.strip()}")
    counts, rest = {}, run.stdout.lstrip()
    for kind in KINDS:
        items, end = json.JSONDecoder().raw_decode(rest)
        rest = rest[end:].lstrip()
        counts[kind] = sum(item["pid"] in threads if "pid" in item
                           else "comm" not in item for item in items)
    return counts


def _files(pid):
    """How often each kind of file is open; socket numbers do not matter."""
    base = f"/proc/{pid}/fd"
    found = collections.Counter()
    for number in os.listdir(base):
        try:
            name = os.readlink(f"{base}/{number}")
        except FileNotFoundError:       # closed since we looked
            continue
        found[re.sub(r":\[\d+\]$", "", name)] += 1
    return found


def _status(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        lines = dict(line.split(":", 1) for line in status)
    return {name: int(lines[name].split()[0])
            for name in ("VmPin", "VmLck", "Threads")}


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What one process holds at one moment."""
    objects: dict               # of the RDMA device, by kind
    files: collections.Counter
    pinned_kib: int
    locked_kib: int
    threads: int

    @staticmethod
    def of(pid):
        status = _status(pid)
        return Snapshot(_objects(pid), _files(pid), status["VmPin"],
                        status["VmLck"], status["Threads"])

    def kept(self, base):
        """What is held here beyond @base, one line each."""
        lines = [f"{count - base.objects[kind]} {kind}"
                 for kind, count in self.objects.items()
                 if count > base.objects[kind]]
        for name, count in (self.files - base.files).items():
            if name.startswith(OPEN_DEVICE) and self.files[name] <= 1:
                continue
            lines.append(f"{count} open {name}")
        for what, now, then in (
                ("KiB pinned", self.pinned_kib, base.pinned_kib),
                ("KiB locked", self.locked_kib, base.locked_kib),
                ("threads", self.threads, base.threads)):
            if now > then:
                lines.append(f"{now - then} {what}")
        return lines

    def used(self):
        return (", ".join(f"{n} {kind}" for kind, n in self.objects.items()
                          if n) + f", {self.pinned_kib} KiB pinned")


def expect_released(vm, base, what):
    """Everything beyond @base is given back in time; seconds it took."""
    began = time.monotonic()
    while True:
        spent = time.monotonic() - began
        kept = Snapshot.of(vm.pid).kept(base)
        if not kept:
            return spent
        if spent > RELEASE_SECONDS:
            raise CheckFailed(f"{what}: {vm.name} still holds, after "
                              f"{RELEASE_SECONDS} s, more than before: "
                              + "; ".join(kept))
        time.sleep(0.2)
