# SPDX-License-Identifier: GPL-2.0-or-later
"""A small QMP client for QEMU 7.2 and later, on a socket that is already open.

For one thread: a command is sent and its answer awaited before the next.
"""
import json
import socket
import time
from typing import Any, Dict, List


class QmpError(Exception):
    """QEMU refused a command."""

    def __init__(self, command: str, error: Dict[str, Any]) -> None:
        super().__init__(f"{command}: {error.get('desc', error)}")
        self.command = command
        self.error_class = error.get("class", "")
        self.desc = error.get("desc", "")


class QmpClosed(Exception):
    """QEMU closed the monitor: it has exited, or it crashed."""


class QmpTimeout(Exception):
    """QEMU did not answer in time: its monitor is blocked."""


class Qmp:
    """The client; negotiate() first."""

    def __init__(self, sock: socket.socket, timeout: float = 60) -> None:
        self._sock = sock
        self._timeout = timeout
        self._buffer = b""
        self.version = ""
        self._asked = 0
        self.events: List[Dict[str, Any]] = []

    def negotiate(self) -> None:
        greeting = self._message(time.monotonic() + self._timeout)
        number = greeting["QMP"]["version"]["qemu"]
        self.version = "{major}.{minor}.{micro}".format(**number)
        self.cmd("qmp_capabilities")

    def _message(self, deadline: float) -> Dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise QmpTimeout("no answer from the monitor")
            self._sock.settimeout(left)
            try:
                data = self._sock.recv(65536)
            except socket.timeout:
                continue
            except ConnectionError:
                data = b""
            if not data:
                raise QmpClosed("QEMU closed its monitor")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def cmd(self, command: str, timeout: float = 0, **arguments: Any) -> Any:
        """Run a command; '_' in an argument's name stands for '-'."""
        self.send(command, timeout, **arguments)
        return self.receive(command, timeout)

    def send(self, command: str, timeout: float = 0, **arguments: Any) -> None:
        """Only ask; receive() must come before the next command."""
        self._asked += 1
        request: Dict[str, Any] = {"execute": command, "id": self._asked}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value
                                    for name, value in arguments.items()}
        limit = timeout or self._timeout
        try:
            self._sock.settimeout(limit)
            self._sock.sendall(json.dumps(request).encode() + b"\n")
        except (ConnectionError, socket.timeout) as error:
            raise QmpClosed("QEMU's monitor is gone") from error

    def receive(self, command: str, timeout: float = 0) -> Any:
        """The answer to @command, which was sent."""
        limit = timeout or self._timeout
        deadline = time.monotonic() + limit
        while True:
            try:
                message = self._message(deadline)
            except QmpTimeout:
                raise QmpTimeout(f"{command}: no answer in {limit:.0f} s, "
                                 "the monitor is blocked") from None
            if "event" in message:
                self.events.append(message)
            elif message.get("id", self._asked) != self._asked:
                continue        # of a command that was not waited for
            elif "error" in message:
                raise QmpError(command, message["error"])
            elif "return" in message:
                return message["return"]

    def hmp(self, line: str, timeout: float = 0) -> str:
        """Run a line of the human monitor and return what it printed."""
        return self.cmd("human-monitor-command", timeout, command_line=line)

    def event_names(self) -> List[str]:
        """Names of the events so far; asks QEMU once, to collect new ones."""
        self.cmd("query-status")
        return [event["event"] for event in self.events]
