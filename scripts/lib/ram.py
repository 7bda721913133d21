# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest RAM seen from outside: shared memory of ours, and its comparison."""
import dataclasses
import os
from typing import Iterator, List, Sequence, Tuple

PAGE_BYTES = 4096
STEP_BYTES = 1 << 20
PAGES_LISTED = 16

Ranges = Sequence[Tuple[int, int]]


@dataclasses.dataclass
class RamComparison:
    """What compare_ram() found."""
    size: int                   # bytes of guest RAM
    compared: int               # of these, compared (holes on both sides too)
    different_pages: int
    first_different: List[int]  # byte offsets

    @property
    def equal(self) -> bool:
        return self.different_pages == 0

    def describe(self) -> str:
        if self.equal:
            return f"{self.compared} of {self.size} bytes compared, all equal"
        where = ", ".join(f"{offset:#x}" for offset in self.first_different)
        return (f"{self.different_pages} of {self.compared // PAGE_BYTES} "
                f"pages differ, first at {where}")


def create_ram(name: str, size: int) -> int:
    """An anonymous file for guest RAM: it goes away with its last user."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def _data_ranges(fd: int, size: int) -> Iterator[Tuple[int, int]]:
    """Ranges that are not holes; reading holes through a mapping fills them."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:         # ENXIO: a hole up to the end
            return
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, min(at, size)


def _steps(fds: Sequence[int], size: int) -> List[int]:
    """Numbers of the STEP_BYTES pieces that hold data on any side."""
    found = set()
    for fd in fds:
        for start, end in _data_ranges(fd, size):
            found.update(range(start // STEP_BYTES, -(-end // STEP_BYTES)))
    return sorted(found)


def _skipped(offset: int, skip: Ranges) -> bool:
    return any(start <= offset < end for start, end in skip)


def compare_ram(one: int, other: int, size: int,
                skip: Ranges = ()) -> RamComparison:
    """Compare two RAM files byte for byte outside the page ranges in @skip."""
    left_out = sum(min(end, size) - min(start, size) for start, end in skip)
    result = RamComparison(size, size - left_out, 0, [])
    for step in _steps((one, other), size):
        base = step * STEP_BYTES
        length = min(STEP_BYTES, size - base)
        a, b = os.pread(one, length, base), os.pread(other, length, base)
        if len(a) != length or len(b) != length:
            raise OSError(f"short read of guest RAM at {base:#x}")
        if a == b:
            continue
        for at in range(0, length, PAGE_BYTES):
            if (a[at:at + PAGE_BYTES] != b[at:at + PAGE_BYTES]
                    and not _skipped(base + at, skip)):
                result.different_pages += 1
                if len(result.first_different) < PAGES_LISTED:
                    result.first_different.append(base + at)
    return result
