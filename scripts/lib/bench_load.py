# SPDX-License-Identifier: GPL-2.0-or-later
"""What scripts/bench migrates: the guests, and how their memory is filled.

The guest program boots, then sleeps between its heartbeats; it writes memory
in the hot workloads only.  Everything else is put into its RAM from outside,
which is as fast as the machine copies and knows no limit of 32 bits.
"""
import dataclasses
import os
from typing import Any, Callable, Dict, Iterator, List, Tuple

from guest import Workload
from vmpair import Vm, VmError, VmPair

MIB = 1 << 20
PAGE_BYTES = 4096
# Odd, so that no two pages of a guest are alike although it is repeated
PATTERN_BYTES = 8 * MIB + 1
BIOS_MIB = 2                    # tables at the end of low memory
# QEMU's pc machine puts what is above this elsewhere, from 3584 MiB on.
LOW_MIB, SPLIT_MIB = 3072, 3584
STRETCHES_MIB = (1, 2, 4)       # of zeroes and of data, by turns
BITS_PER_SECTOR_MIB = 8 * 512   # bytes of disk for a byte of its bitmap
DISCARD_BYTES = 1 << 30         # qemu-io takes less than 2 GiB at a time
STATE_NODE, STATE_BITMAP = "state", "state0"
# The state travels while the guest is stopped. Once no RAM is left to send,
# QEMU finds the link too slow for it, unless it is told how fast that is.
STATE_BANDWIDTH = 1 << 40


@dataclasses.dataclass(frozen=True)
class Load:
    """A guest to migrate."""
    name: str
    text: str                   # what it is, for the heading of a table
    guest: Workload
    fill: Callable[[int, Workload], None]
    private: bool = False       # anonymous RAM: never touched pages are free
    state_mib: int = 0          # of device state
    limit: int = 0              # bytes a second at first, 0: none
    limit_s: float = 0          # how long the limit holds

    @property
    def moved_bytes(self) -> int:
        """Memory and device state: what costs are given per GiB of."""
        return (self.guest.memory_mib + self.state_mib) * MIB

    def vm_options(self, no_copy: bool) -> Dict[str, Any]:
        """For VmPair."""
        return {"private_ram": self.private, "used_ram": not self.private,
                "extra": self._extra(no_copy)}

    def _extra(self, no_copy: bool) -> List[str]:
        args = ["-name", "debug-threads=on"]
        if no_copy:             # its state would be looked for in guest RAM
            args += ["-global", "apic-common.vapic=off"]
        if self.state_mib:
            size = self.state_mib * MIB * BITS_PER_SECTOR_MIB
            args += ["-blockdev", f"driver=raw,node-name={STATE_NODE},"
                     f"discard=unmap,file.driver=null-co,file.size={size}"]
        return args

    def prepare(self, pair: VmPair) -> None:
        """Fill the source's memory, and make its device state."""
        if not self.private:
            self.fill(pair.source.ram_fd, self.guest)
        if self.state_mib:
            self._make_state(pair.source)

    def _make_state(self, vm: Vm) -> None:
        """A dirty bitmap all of ones: it is sent with the devices."""
        vm.qmp.cmd("block-dirty-bitmap-add", node=STATE_NODE,
                   name=STATE_BITMAP, granularity=512)
        size = self.state_mib * MIB * BITS_PER_SECTOR_MIB
        for at in range(0, size, DISCARD_BYTES):
            length = min(DISCARD_BYTES, size - at)
            vm.qmp.hmp(f'qemu-io {STATE_NODE} "discard -q {at} {length}"')

    def settings(self) -> Tuple[Dict[str, bool], Dict[str, int]]:
        """Migration capabilities and parameters that this guest needs."""
        if self.state_mib:
            return ({"dirty_bitmaps": True},
                    {"avail_switchover_bandwidth": STATE_BANDWIDTH})
        return {}, {}

    def verify(self, pair: VmPair) -> None:
        """Both sides are stopped; raises if anything differs.

        Leaves the guest running at the destination.
        """
        if not self.private:
            pair.verify()
        if self.state_mib:
            one, other = (vm.qmp.cmd("x-debug-block-dirty-bitmap-sha256",
                                     node=STATE_NODE, name=STATE_BITMAP)
                          for vm in (pair.source, pair.there))
            if one != other:
                raise VmError("the device state was damaged")
        pair.resume_destination()
        if self.guest.random_pages or self.guest.hot_pages:
            pair.guest_verify()


# -------------------------------------------------------------------- filling

def _free_ranges(guest: Workload) -> Iterator[Tuple[int, int]]:
    """Guest RAM, as offsets in its file, that neither it nor its BIOS uses."""
    low = (LOW_MIB if guest.memory_mib >= SPLIT_MIB else guest.memory_mib)
    first = guest.hot_start_bytes + -(-guest.hot_pages // 256) * MIB
    if first < (low - BIOS_MIB) * MIB:
        yield first, (low - BIOS_MIB) * MIB
    if low < guest.memory_mib:
        yield low * MIB, guest.memory_mib * MIB


def _write(fd: int, data: memoryview, at: int) -> None:
    while data:
        count = os.pwrite(fd, data, at)
        data, at = data[count:], at + count


def fill_nothing(_fd: int, _guest: Workload) -> None:
    """The guest's own memory is all there is."""


def fill_random(fd: int, guest: Workload) -> None:
    pattern = memoryview(os.urandom(PATTERN_BYTES))
    for start, end in _free_ranges(guest):
        for at in range(start, end, len(pattern)):
            _write(fd, pattern[:end - at], at)


def fill_half_zero(fd: int, guest: Workload) -> None:
    """In the lower half of each range stretches, in the upper single pages."""
    pattern = memoryview(os.urandom(PATTERN_BYTES))
    for start, end in _free_ranges(guest):
        middle = (start + end) // 2 // MIB * MIB
        for number, (at, to) in enumerate(_stretches(start, middle)):
            if number % 2:
                _write(fd, pattern[:to - at], at)
        for at in range(middle, end, 2 * PAGE_BYTES):
            offset = at // 2 % MIB + at // MIB      # differs from its like
            _write(fd, pattern[offset:offset + PAGE_BYTES], at)


def _stretches(start: int, end: int) -> Iterator[Tuple[int, int]]:
    number = 0
    while start < end:
        length = STRETCHES_MIB[number // 2 % len(STRETCHES_MIB)] * MIB
        yield start, min(start + length, end)
        start += length
        number += 1


# ------------------------------------------------------------------ workloads

def _random(mib: int) -> Load:
    return Load("random", f"{mib} MiB, all random, idle",
                Workload(mib, 0, 0), fill_random)


def _idle(mib: int) -> Load:
    return Load("idle", f"{mib} MiB, mostly never touched, idle",
                Workload(mib, 32, 0), fill_nothing, private=True)


def _half_zero(mib: int) -> Load:
    return Load("half-zero", f"{mib} MiB, half of it zero: stretches of 1 to "
                "4 MiB, and every other page; idle",
                Workload(mib, 0, 0), fill_half_zero)


def _hot(mib: int) -> Load:
    guest = Workload(mib, 0, mib // 8, dirty_mib_per_s=32)
    return Load("hot", f"{mib} MiB random, {guest.hot_mib} MiB of it "
                "rewritten at 32 MiB/s", guest, fill_random)


def _hot_over(mib: int) -> Load:
    # More than what 64 MiB/s carries in the downtime that is allowed
    guest = Workload(mib, 0, max(32, mib // 8), dirty_mib_per_s=128)
    return Load("hot-over", f"{mib} MiB random, {guest.hot_mib} MiB of it "
                "rewritten at 128 MiB/s, the migration limited to 64 MiB/s "
                "for its first 10 s", guest, fill_random,
                limit=64 * MIB, limit_s=10)


def _device(mib: int) -> Load:
    return Load("device", f"{mib} MiB, zero, and 256 MiB of device state",
                Workload(mib, 0, 0), fill_nothing, state_mib=256)


# Name: how to make it, MiB of memory, the same in the lab (which is slow)
LOADS = {
    "random": (_random, 1024, 256),
    "idle": (_idle, 16384, 1024),
    "half-zero": (_half_zero, 1024, 256),
    "hot": (_hot, 512, 128),
    "hot-over": (_hot_over, 512, 128),
    "device": (_device, 128, 128),
}


def make_load(name: str, memory_mib: int = 0, lab: bool = False) -> Load:
    make, natively, in_lab = LOADS[name]
    return make(memory_mib or (in_lab if lab else natively))
