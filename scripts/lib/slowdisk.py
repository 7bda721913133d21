# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk whose server can be stopped, for a destination that takes its time.

    disk = SlowDisk(qemu, workload, pair.work, machine="pc")
    pair.start_source(*NO_DISK)
    pair.start_destination(args=disk.options())
    disk.stand_still()          # whoever activates the disk waits
    disk.go_on()
"""
import pathlib
import signal
import time
from typing import Any, Sequence, Tuple

from guest import Workload
from vmpair import Vm, VmError

DISK_BYTES = 1 << 20
SECONDS = 60
# Only a disk that somebody uses is activated.
DEVICE = ("-device", "ide-hd,drive=disk0")
# The same to a guest, with nothing behind it: for the source.
NO_DISK = ("-blockdev", f"driver=null-co,node-name=disk0,read-zeroes=on,"
           f"size={DISK_BYTES}", *DEVICE)


class SlowDisk:
    """An image behind an NBD server, which is a QEMU of its own."""

    def __init__(self, qemu: str, workload: Workload, work: pathlib.Path,
                 **options: Any) -> None:
        self.address = work / "disk.sock"
        self.vm = Vm("disk", qemu, workload, work, **options)
        self.vm.start("-S")
        path = str(work / "disk.qcow2")
        self._job("file", driver="file", filename=path, size=0)
        self.vm.qmp.cmd("blockdev-add", driver="file", filename=path,
                        node_name="image")
        self._job("format", driver="qcow2", file="image", size=DISK_BYTES)
        self.vm.qmp.cmd("nbd-server-start", addr={
            "type": "unix", "data": {"path": str(self.address)}})
        self.vm.qmp.cmd("block-export-add", type="nbd", id="export",
                        name="image", node_name="image", writable=True)

    def _job(self, name: str, **options: Any) -> None:
        self.vm.qmp.cmd("blockdev-create", job_id=name, options=options)
        deadline = time.monotonic() + SECONDS
        while True:
            jobs = self.vm.qmp.cmd("query-jobs")
            if any(job["id"] == name and job["status"] == "concluded"
                   for job in jobs):
                break
            if time.monotonic() > deadline:
                raise VmError(f"creating the {name} takes more than "
                              f"{SECONDS} s")
            time.sleep(0.02)
        failed = [job["error"] for job in jobs if job.get("error")]
        if failed:
            raise VmError(f"no image: {failed}")
        self.vm.qmp.cmd("job-dismiss", id=name)

    def options(self, device: Sequence[str] = DEVICE) -> Tuple[str, ...]:
        return ("-blockdev", "driver=qcow2,node-name=disk0,file.driver=nbd,"
                "file.server.type=unix,file.export=image,"
                f"file.server.path={self.address}", *device,
                "-trace", "migration_block_activation")

    def stand_still(self) -> None:
        self.vm.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.vm.signal(signal.SIGCONT)

    def close(self) -> None:
        self.go_on()
        self.vm.close()
