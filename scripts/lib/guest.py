# SPDX-License-Identifier: GPL-2.0-or-later
"""The workload guest: build its image, set its parameters, read its console.

The source is in scripts/guest/; guest.c tells what the guest does and prints.
"""
import dataclasses
import functools
import pathlib
import re
import shutil
import struct
import subprocess
import tempfile
import threading
import time
from typing import Callable, List, Optional, Tuple

PAGE_BYTES = 4096
PAGES_PER_MIB = 256
TICKS_PER_SECOND = 20
BEAT_SECONDS = 0.1
WORKLOAD_START_MIB = 16
LOW_MEMORY_BYTES = 1 << 20          # code, stack and variables of the guest
SOURCE_DIR = pathlib.Path(__file__).resolve().parent.parent / "guest"
FLOPPY_BYTES = 1440 * 1024
PARAMS_OFFSET = 512
PARAMS = struct.Struct("<8s7I")     # struct GuestParams in guest.c
MAGIC = b"RMIGGST1"

BEAT = re.compile(r"^beat (\d+) gen (\d+) sweep (\d+) (ok|bad (\d+))$")
VERIFIED = re.compile(r"^verified (\d+) pages (ok|bad (\d+))$")


class GuestError(Exception):
    """The guest cannot be built, or did not do what it should."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """What the guest does with its memory; 0 switches a part off."""
    memory_mib: int = 512
    random_mib: int = 256
    hot_mib: float = 16
    dirty_mib_per_s: float = 0      # how fast the hot set is rewritten
    sweep_mib_per_s: float = 0      # how fast the random region is re-read
    seed: int = 0x5eed

    @property
    def random_pages(self) -> int:
        return self.random_mib * PAGES_PER_MIB

    @property
    def hot_pages(self) -> int:
        return int(self.hot_mib * PAGES_PER_MIB)

    @property
    def hot_start_bytes(self) -> int:
        return (WORKLOAD_START_MIB + self.random_mib) << 20

    def changing_ranges(self) -> List[Tuple[int, int]]:
        """(start, end) of the memory that changes while the guest runs."""
        hot_end = self.hot_start_bytes + self.hot_pages * PAGE_BYTES
        return [(0, LOW_MEMORY_BYTES), (self.hot_start_bytes, hot_end)]

    def pack(self) -> bytes:
        used_mib = WORKLOAD_START_MIB + self.random_mib + self.hot_mib
        # The BIOS keeps tables in the last MiB; PCI begins at 3 GiB.
        if used_mib + 1 > min(self.memory_mib, 3072):
            raise GuestError(
                f"{self.random_mib} MiB random and {self.hot_mib} MiB hot do "
                f"not fit into a guest of {self.memory_mib} MiB: they need "
                f"{used_mib + 1} MiB of at most 3072")
        return PARAMS.pack(
            MAGIC, self.seed, WORKLOAD_START_MIB * PAGES_PER_MIB,
            self.random_pages, self.hot_start_bytes // PAGE_BYTES,
            self.hot_pages, _pages_per_tick(self.dirty_mib_per_s),
            _pages_per_tick(self.sweep_mib_per_s))


def _pages_per_tick(mib_per_s: float) -> int:
    pages = mib_per_s * PAGES_PER_MIB / TICKS_PER_SECOND
    return max(1, round(pages)) if pages > 0 else 0


def _tool(*argv: str) -> None:
    if shutil.which(argv[0]) is None:
        raise GuestError(f"{argv[0]} is missing: apt-get install gcc binutils")
    done = subprocess.run(argv, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise GuestError(f"{' '.join(argv)}\n{done.stdout}")


def _compile(work: pathlib.Path) -> bytes:
    flags = ["-m32", "-march=i686", "-O2", "-std=gnu11", "-Wall", "-Wextra",
             "-Werror", "-ffreestanding", "-fno-pic", "-fno-pie",
             "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
             "-fcf-protection=none", "-fno-tree-vectorize"]
    units = [("boot.S", []), ("guest.c", ["-mgeneral-regs-only"]),
             ("pages.c", ["-msse2"])]
    objects = []
    for name, extra in units:
        objects.append(str(work / (name + ".o")))
        _tool("cc", *flags, *extra, "-c", str(SOURCE_DIR / name),
              "-o", objects[-1])
    elf, flat = str(work / "guest.elf"), work / "guest.bin"
    _tool("ld", "-m", "elf_i386", "-T", str(SOURCE_DIR / "guest.ld"),
          "-o", elf, *objects)
    _tool("objcopy", "-O", "binary", elf, str(flat))
    return flat.read_bytes()


@functools.lru_cache(maxsize=1)
def compiled_guest() -> bytes:
    """The guest as a flat image, its parameters not yet filled in."""
    with tempfile.TemporaryDirectory(prefix="rmig-guest-") as work:
        return _compile(pathlib.Path(work))


def write_image(path: pathlib.Path, workload: Workload) -> None:
    """Write the guest's floppy to @path, its parameters filled in."""
    code = bytearray(compiled_guest())
    if code[PARAMS_OFFSET:PARAMS_OFFSET + len(MAGIC)] != MAGIC:
        raise GuestError("the parameters are not at offset "
                         f"{PARAMS_OFFSET} of the guest: see guest.ld")
    code[PARAMS_OFFSET:PARAMS_OFFSET + PARAMS.size] = workload.pack()
    path.write_bytes(bytes(code).ljust(FLOPPY_BYTES, b"\0"))


@dataclasses.dataclass(frozen=True)
class Beat:
    """One heartbeat and when it reached us."""
    at: float                       # time.monotonic()
    number: int
    generation: int
    sweep: int
    bad: int


@dataclasses.dataclass(frozen=True)
class Pulse:
    """What the heartbeat looked like from outside over some time."""
    beats: int
    lost: int                       # numbers that never reached us
    longest_gap_s: float
    missed: int                     # beats due in that time that did not come


class Console:
    """The guest's serial console, on whichever side the guest runs.

    Both sides' bytes go into one text: the source has stopped before the
    destination speaks, and a line may begin on one side and end on the other.
    Fed by one reader thread (vmpair.py), read by any.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._partial = b""
        self.lines: List[Tuple[float, str]] = []
        self.beats: List[Beat] = []
        self.errors: List[str] = []

    def feed(self, data: bytes) -> None:
        now = time.monotonic()
        with self._changed:
            *whole, self._partial = (self._partial + data).split(b"\n")
            for raw in whole:
                self._line(now, raw.decode("ascii", "replace").strip())
            self._changed.notify_all()

    def _line(self, now: float, line: str) -> None:
        self.lines.append((now, line))
        match = BEAT.match(line)
        if match:
            self.beats.append(Beat(now, int(match[1]), int(match[2]),
                                   int(match[3]), int(match[5] or 0)))
        if line.startswith("error") or " bad " in line:
            self.errors.append(line)

    def wait(self, what: str, found: Callable[[], Optional[object]],
             timeout: float) -> object:
        """Wait until found() is true and return its value."""
        with self._changed:
            value = self._changed.wait_for(
                lambda: found() or self.errors, timeout)
            if self.errors:
                raise GuestError("the guest found its memory damaged: "
                                 + "; ".join(self.errors[:5]))
            if not value:
                tail = [text for _, text in self.lines[-5:]]
                raise GuestError(f"no {what} from the guest in {timeout:.0f} "
                                 f"s; its console ends in {tail}")
            return value

    def wait_ready(self, timeout: float = 300) -> None:
        """Wait until the memory is filled and the heart beats."""
        self.wait("heartbeat", lambda: self.beats, timeout)

    def wait_beats(self, count: int, timeout: float = 120) -> None:
        """Wait for @count further heartbeats."""
        goal = len(self.beats) + count
        self.wait("heartbeat", lambda: len(self.beats) >= goal, timeout)

    def wait_verified(self, since: int, timeout: float) -> int:
        """Wait for the answer to a 'v' in the lines from @since on."""
        def answer() -> Optional[object]:
            found = (VERIFIED.match(text) for _, text in self.lines[since:])
            return next((match for match in found if match), None)

        return int(self.wait("answer to 'v'", answer, timeout)[1])

    def pulse(self, since: float, until: float) -> Pulse:
        """How regular the beats between two moments were."""
        with self._changed:
            beats = [b for b in self.beats if since <= b.at <= until]
        if len(beats) < 2:
            raise GuestError(f"{len(beats)} heartbeats in "
                             f"{until - since:.1f} s: the guest does not run")
        pairs = list(zip(beats, beats[1:]))
        due = round((beats[-1].at - beats[0].at) / BEAT_SECONDS)
        return Pulse(
            beats=len(beats),
            lost=sum(b.number - a.number - 1 for a, b in pairs),
            longest_gap_s=max(b.at - a.at for a, b in pairs),
            missed=max(0, due - (beats[-1].number - beats[0].number)))
