# SPDX-License-Identifier: GPL-2.0-or-later
"""A progress line: redrawn on a terminal, else printed now and then."""
import sys
import time
from typing import TextIO

WIDTH = 79
PLAIN_SECONDS = 1.0


def bar(fraction: float, width: int) -> str:
    """[=====>    ], with the fraction limited to 0 … 1."""
    inner = width - 2
    done = int(max(0.0, min(1.0, fraction)) * inner)
    head = "=" * done if done == inner else "=" * done + ">"
    return "[" + head[:inner].ljust(inner) + "]"


def mib(count: float) -> str:
    return f"{count / (1 << 20):.1f} MiB"


class ProgressLine:
    """Show the newest of many states of something that takes a while."""

    def __init__(self, terminal: bool, out: TextIO = sys.stdout,
                 plain_seconds: float = PLAIN_SECONDS) -> None:
        self._terminal = terminal
        self._out = out
        self._plain_seconds = plain_seconds
        self._last = ""
        self._printed_at = -plain_seconds

    def show(self, line: str) -> None:
        if line == self._last:
            return
        self._last = line
        if self._terminal:
            self._out.write("\r" + line[:WIDTH].ljust(WIDTH))
        elif time.monotonic() - self._printed_at >= self._plain_seconds:
            self._out.write(line[:WIDTH] + "\n")
            self._printed_at = time.monotonic()
            self._last = ""
        self._out.flush()

    def clear(self) -> None:
        """Take the line away: what it showed is over and well."""
        if self._terminal:
            self._out.write("\r" + " " * WIDTH + "\r")
        self._last = ""
        self._out.flush()

    def end(self) -> None:
        """Leave the last state standing."""
        if self._terminal:
            self._out.write("\n")
        elif self._last:
            self._out.write(self._last[:WIDTH] + "\n")
        self._last = ""
        self._out.flush()
