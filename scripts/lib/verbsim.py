# SPDX-License-Identifier: GPL-2.0-or-later
"""verbsim from Python: build it, run programs on it, command and measure them.

    fabric = Fabric(directory, trace=folder, profile="roce100")
    process = subprocess.Popen(argv, env=fabric.env("src"))
    fabric.tell("on write 100: complete REM_ACCESS_ERR", "src")
    fabric.stats("src")["tx_write_bytes"]

Used by scripts/verbsim, the tests that run on verbsim, and benchmarks.
"""
import contextlib
import fcntl
import fnmatch
import hashlib
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional

REPO = pathlib.Path(__file__).resolve().parents[2]
SOURCE = REPO / "tests" / "verbsim"
LIBRARIES = ("libibverbs.so.1", "librdmacm.so.1")

# tests/verbsim/packet.h: struct VsPkt, and two of enum VsPktKind
_PACKET = struct.Struct("=IHHIIIIQ")
_COMMAND, _ANSWER = 7, 8

# tests/verbsim/trace.c: struct StatsHeader
_HEADER = struct.Struct("=8s8IQ32s32s32s")
_MAGIC = b"VERBSIM\n"


class VerbsimError(Exception):
    """Something that verbsim needs is missing or fails; the text says what."""


# ------------------------------------------------------------------- building

def cache() -> pathlib.Path:
    """The project's cache directory."""
    given = os.environ.get("RMIG_CACHE")
    if given:
        return pathlib.Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "qemu-rdma-migration"


def _run_quietly(argv: List[str]) -> None:
    env = dict(os.environ)
    env.setdefault("CCACHE_DIR", str(cache() / "ccache"))
    # What is built here must not be built with, or by, what runs on verbsim.
    env.pop("LD_LIBRARY_PATH", None)
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.STDOUT, check=False, env=env)
    except FileNotFoundError:
        raise VerbsimError(f"'{argv[0]}' is missing: install meson, "
                           "ninja-build, gcc, pkg-config, libglib2.0-dev, "
                           "libibverbs-dev and librdmacm-dev") from None
    if done.returncode:
        raise VerbsimError(f"'{' '.join(argv)}' failed:\n{done.stdout}")


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
    with open(path, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build() -> pathlib.Path:
    """The directory that holds the two libraries, up to date.

    $VERBSIM_LIB is taken as it is. Otherwise each checkout has a build
    directory of its own in the cache.
    """
    given = os.environ.get("VERBSIM_LIB")
    if given:
        folder = pathlib.Path(given).resolve()
        for name in LIBRARIES:
            if not (folder / name).exists():
                raise VerbsimError(f"VERBSIM_LIB: {folder} has no {name}")
        return folder
    mark = hashlib.sha256(str(REPO).encode()).hexdigest()[:8]
    folder = cache() / f"verbsim-build-{mark}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_suffix(".lock")):
        if not (folder / "build.ninja").exists():
            print("verbsim: building the libraries (once)", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            _run_quietly(["meson", "setup", "-Dtests=true", str(folder),
                          str(REPO)])
        _run_quietly(["ninja", "-C", str(folder)] +
                     [f"tests/verbsim/{name}" for name in LIBRARIES])
    return folder / "tests" / "verbsim"


# ------------------------------------------------------------------- counters

class Stats(Dict[str, int]):
    """The counters of one process by name, and whose they are."""

    name = profile = device = "?"
    pid = slot = start_ns = 0
    no_copy = False

    @classmethod
    def read(cls, path: pathlib.Path) -> "Stats":
        """From a file NAME.PID.stats of a trace directory."""
        data = path.read_bytes()
        if len(data) < _HEADER.size or not data.startswith(_MAGIC):
            raise VerbsimError(f"{path} is no stats file of verbsim")
        (_, version, count, counters, names, pid, slot, no_copy, _, start,
         name, profile, device) = _HEADER.unpack_from(data)
        if version != 1:
            raise VerbsimError(f"{path} is of version {version}, not 1")
        keys = data[names:].split(b"\0")[:count]
        values = struct.unpack_from(f"={count}Q", data, counters)
        stats = cls(zip((key.decode() for key in keys), values))
        stats.name, stats.profile, stats.device = (
            text.rstrip(b"\0").decode() for text in (name, profile, device))
        stats.pid, stats.slot, stats.start_ns = pid, slot, start
        stats.no_copy = bool(no_copy)
        return stats

    @classmethod
    def parse(cls, answer: str) -> "Stats":
        """From the answer to the command "stats"; rules are left out."""
        pairs = (line.split() for line in answer.splitlines()
                 if not line.startswith("rule "))
        return cls((key, int(value)) for key, value in pairs)

    def control(self) -> Dict[str, int]:
        """SENDs by control type of the migration protocol, those that were."""
        start = "control_"
        return {key[len(start):]: value for key, value in self.items()
                if key.startswith(start) and value}


def read_trace_stats(folder: os.PathLike) -> List[Stats]:
    """All processes of a trace directory, in the order they started."""
    paths = pathlib.Path(folder).glob("*.stats")
    return sorted(map(Stats.read, paths), key=lambda stats: stats.start_ns)


# --------------------------------------------------------------------- fabric

class Process(NamedTuple):
    """A process on the fabric: its slot's lock names it."""
    slot: int
    pid: int
    name: str


def default_directory() -> pathlib.Path:
    """Where processes meet that are given no directory."""
    given = os.environ.get("VERBSIM_DIR")
    if given:
        return pathlib.Path(given)
    base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    return pathlib.Path(base) / f"verbsim-{os.getuid()}"


class Fabric:
    """A fabric directory, and how processes on it are to run.

    directory: where they meet; None: the user's usual one
    trace: directory for traces and counters, or None
    profile: name or path; None: what the environment says, else "fast"
    no_copy: account for Writes and Reads without moving data
    faults: a fault script's path, or None
    leaks_fail: a process that leaves verbs objects behind exits with 99
    hold_pages: whether a region keeps the pages it was made of, as on an
        adapter; None: what the environment says, else if it can be
    """

    def __init__(self, directory: Optional[os.PathLike] = None, *,
                 trace: Optional[os.PathLike] = None,
                 profile: Optional[str] = None, no_copy: bool = False,
                 faults: Optional[os.PathLike] = None,
                 leaks_fail: bool = False,
                 hold_pages: Optional[bool] = None) -> None:
        self.directory = pathlib.Path(directory or default_directory())
        self.trace = pathlib.Path(trace) if trace else None
        self._settings = {
            "VERBSIM_DIR": str(self.directory.absolute()),
            "VERBSIM_PROFILES": str(SOURCE / "profiles"),
        }
        if self.trace:
            self._settings["VERBSIM_TRACE"] = str(self.trace.absolute())
        if profile:
            self._settings["VERBSIM_PROFILE"] = profile
        if no_copy:
            self._settings["VERBSIM_COPY"] = "none"
        if faults:
            self._settings["VERBSIM_FAULTS"] = os.path.abspath(faults)
        if leaks_fail:
            self._settings["VERBSIM_LEAKS"] = "fail"
        if hold_pages is not None:
            self._settings["VERBSIM_PAGES"] = "hold" if hold_pages else "follow"

    def env(self, name: Optional[str] = None,
            base: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
        """The environment of a process called @name (default: its program).

        @base: what to start from; default: our own environment.
        """
        env = dict(os.environ if base is None else base)
        env.update(self._settings)
        if name:
            env["VERBSIM_NAME"] = name
        paths = [str(build()), env.get("LD_LIBRARY_PATH", "")]
        env["LD_LIBRARY_PATH"] = ":".join(filter(None, paths))
        return env

    def processes(self) -> List[Process]:
        """Those that run on the fabric now."""
        found = []
        for lock in self.directory.glob("nic-*.lock"):
            slot = int(lock.stem.split("-")[1])
            words = lock.read_text(encoding="ascii", errors="replace").split()
            if len(words) == 2 and self._is_held(lock):
                found.append(Process(slot, int(words[0]), words[1]))
        return sorted(found)

    @staticmethod
    def _is_held(lock: pathlib.Path) -> bool:
        """A slot whose lock nobody holds is free; its file stays."""
        with open(lock, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def tell(self, command: str, name: str = "*",
             seconds: float = 10) -> Dict[Process, str]:
        """Send a line to the processes called @name (* and ? are wild).

        A process can also be named by its id.

        The answers, by process. What a process refuses is a VerbsimError,
        and so is a fabric on which nobody has that name.
        """
        answers = {}
        for process in self.processes():
            if (fnmatch.fnmatchcase(process.name, name)
                    or name == str(process.pid)):
                answer = self.ask(process, command, seconds)
                if answer.startswith("error: "):
                    raise VerbsimError(f"{process.name}: {answer[7:].strip()}")
                answers[process] = answer
        if not answers:
            raise VerbsimError(f"no process '{name}' on {self.directory}")
        return answers

    def ask(self, process: Process, command: str,
            seconds: float = 10) -> str:
        """Send a line to one process; its answer, refusals included."""
        path = self.directory / f"nic-{process.slot}.sock"
        text = command.encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(seconds)
            try:
                channel.connect(str(path))
                channel.sendall(_PACKET.pack(_PACKET.size + len(text),
                                             _COMMAND, 0, 0, 0, 0, 0, 0) +
                                text)
                while True:
                    size, kind = _PACKET.unpack(
                        _receive(channel, _PACKET.size))[:2]
                    body = _receive(channel, size - _PACKET.size)
                    if kind == _ANSWER:
                        return body.decode()
            except OSError as error:
                raise VerbsimError(f"{process.name} (process {process.pid}) "
                                   f"does not answer: {error}") from None

    def stats(self, name: str) -> Stats:
        """The counters of the process called @name, now or when it ended.

        From the trace directory if there is one (the last process of that
        name), else from the living process.
        """
        if self.trace:
            found = [stats for stats in read_trace_stats(self.trace)
                     if stats.name == name]
            if not found:
                raise VerbsimError(f"no process '{name}' in {self.trace}")
            return found[-1]
        return Stats.parse(list(self.tell("stats", name).values())[-1])


def _receive(channel: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = channel.recv(count - len(data))
        if not more:
            raise OSError("it ended")
        data += more
    return data
