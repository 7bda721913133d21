# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process holds of the RDMA device and of the kernel, and what it kept.

Read from outside: the device's objects from the kernel's resource tracking
(rdma resource) or from verbsim itself, the rest from /proc. Objects of the
kernel's own carry its modules' names ("comm") and no process id.
"""

import collections
import contextlib
import dataclasses
import json
import os
import re
import subprocess
import time

from labtest import CheckFailed, LabError, on_verbsim, tell_verbsim

KINDS = ("qp", "cq", "mr", "pd", "cm_id")
# librdmacm opens a device once and keeps it open as long as the process lives.
OPEN_DEVICE = ("/dev/infiniband/uverbs", "anon_inode:[infinibandevent]")
# verbsim's, too; and it has a thread that is the NIC, with files of its own:
# its doorbell, its slot on the fabric and its sockets to other NICs; if it
# holds pages, also io_uring, whose helpers come and go, and memory of its own.
NIC_THREAD = "verbsim-nic"
HELPER_THREADS = "iou-wrk-"
NIC_FILES = collections.Counter({"anon_inode:[eventpoll]": 1,
                                 "anon_inode:[eventfd]": 2})
NIC_NAMES = re.compile(r"socket$|.*/nic-\d+\.lock$|/memfd:verbsim-|"
                       r"anon_inode:\[io_uring\]$|/proc/\d+/pagemap$")
RELEASE_SECONDS = 60        # what is not given back by then is kept


def _on_fabric(pid):
    """Objects as verbsim counts them, and KiB pinned."""
    answer = tell_verbsim(pid, "objects")
    # It has not opened the device yet.
    if answer is None:
        return collections.Counter(), 0
    counts = collections.Counter({kind: int(count) for kind, count in
                                  map(str.split, answer.splitlines())})
    return counts, counts.pop("pinned_bytes") >> 10


def _in_kernel(pid):
    """Objects as the kernel counts them.

    It knows the thread that made an object, and nobody once that thread has
    ended: such objects are counted too, whoever's they are.
    """
    threads = {int(tid) for tid in os.listdir(f"/proc/{pid}/task")}
    batch = "".join(f"resource show {kind}\n" for kind in KINDS)
    run = subprocess.run(["rdma", "-j", "-b", "/dev/stdin"], input=batch,
                         capture_output=True, text=True)
    if run.returncode != 0:
        raise LabError(f"'rdma resource show' failed (it needs root): "
                       f"{run.stderr.strip()}")
    counts, rest = collections.Counter(), run.stdout.lstrip()
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
    return {name: int(lines[name].split()[0]) for name in ("VmPin", "VmLck")}


def _threads(pid):
    """How many, and whether verbsim's is among them (which does not count)."""
    names = collections.Counter()
    for tid in os.listdir(f"/proc/{pid}/task"):
        # It may just have ended, before the file is opened or after.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/{pid}/task/{tid}/comm",
                      encoding="utf-8") as comm:
                names[comm.read().strip()] += 1
    has_nic = names.pop(NIC_THREAD, 0) > 0
    for name in [name for name in names if name.startswith(HELPER_THREADS)]:
        del names[name]
    return sum(names.values()), has_nic


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What one process holds at one moment."""
    objects: collections.Counter        # of the RDMA device, by kind
    files: collections.Counter
    pinned_kib: int
    locked_kib: int
    threads: int
    has_nic: bool

    @staticmethod
    def of(pid):
        status = _status(pid)
        if on_verbsim():
            objects, pinned = _on_fabric(pid)
        else:
            objects, pinned = _in_kernel(pid), status["VmPin"]
        return Snapshot(objects, _files(pid), pinned, status["VmLck"],
                        *_threads(pid))

    def _more_files(self, base):
        """Open files beyond @base, but those that an open device needs."""
        more = self.files - base.files
        if self.has_nic and not base.has_nic:
            more -= NIC_FILES
        for name, count in more.items():
            if name.startswith(OPEN_DEVICE) and self.files[name] <= 1:
                continue
            if self.has_nic and NIC_NAMES.match(name):
                continue
            yield f"{count} open {name}"

    def kept(self, base):
        """What is held here beyond @base, one line each."""
        lines = [f"{count} {kind}"
                 for kind, count in (self.objects - base.objects).items()]
        lines += self._more_files(base)
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
