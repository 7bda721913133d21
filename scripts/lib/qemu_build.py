# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the project's QEMU when a script needs it, with a progress line."""
import pathlib
import re
import subprocess
import time
from typing import List

from lab_image import cache_dir
from progress import ProgressLine, bar

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
BINARY = REPO / "build-qemu" / "qemu-system-x86_64"
CONFIGURE = ["./configure", "--minimal", "--enable-rdma",
             "--target-list=x86_64-softmmu"]
NINJA_STEP = re.compile(r"^\[(\d+)/(\d+)\]")
LOG_TAIL_LINES = 20
PLAIN_SECONDS = 30.0


class BuildError(Exception):
    """Configure or make failed; the text holds the end of the log."""


def _describe(line: str, elapsed: float) -> str:
    clock = f"{int(elapsed) // 60}:{int(elapsed) % 60:02}"
    step = NINJA_STEP.match(line)
    if step:
        done, total = int(step[1]), int(step[2])
        return (f"  {bar(done / total, 25)} {done} of {total} files compiled, "
                f"{clock}")
    return f"  {clock}  {line.strip()}"


def _run(argv: List[str], log: pathlib.Path, terminal: bool) -> None:
    """Run a build step; every line to the log, the newest on the screen."""
    progress = ProgressLine(terminal, plain_seconds=PLAIN_SECONDS)
    began = time.monotonic()
    with open(log, "a", encoding="utf-8") as record:
        record.write(f"\n$ {' '.join(argv)}\n")
        with subprocess.Popen(argv, cwd=REPO, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True,
                              errors="replace",
                              stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            for line in process.stdout:
                record.write(line)
                if line.strip():
                    progress.show(_describe(line, time.monotonic() - began))
    if process.returncode == 0:
        progress.clear()
    else:
        progress.end()
        tail = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        raise BuildError(f"{' '.join(argv)} failed; the end of {log}:\n"
                         + "\n".join("    " + line for line in tail))


def ensure_built(terminal: bool) -> str:
    """Build our QEMU if it is missing or out of date; its path."""
    log = cache_dir() / "demo-build.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    if not BINARY.exists():
        print("Building QEMU with this transport: about ten minutes on two "
              f"processors.\n  log: {log}", flush=True)
    if not (REPO / "Makefile").exists():    # configure writes it last
        _run(CONFIGURE, log, terminal)
    # make lays changed files of ours into QEMU's tree and is quick without.
    _run(["make", BINARY.name], log, terminal)
    if not BINARY.exists():
        raise BuildError(f"make left no {BINARY}; the log is {log}")
    return str(BINARY)
