# SPDX-License-Identifier: GPL-2.0-or-later
"""Two QEMUs with the workload guest, and a migration between them.

    with VmPair(qemu, qemu, Workload()) as pair:
        pair.start_source()
        pair.console.wait_ready()
        pair.start_destination("rdma:192.0.2.1:4444", paused=True)
        pair.set_capabilities(rdma_pin_all=True)
        result = pair.migrate("rdma:192.0.2.1:4444")
        pair.verify()               # both stopped: all RAM, byte for byte
        pair.resume_destination()
        pair.guest_verify()         # the guest re-reads its own memory

Monitor, console and guest RAM are inherited file descriptors, so no socket or
memory file can be left behind; the QEMUs die with the program that made them.
"""
import ctypes
import dataclasses
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from guest import Console, Workload, write_image
from qmp import Qmp, QmpClosed, QmpError, QmpTimeout
from ram import RamComparison, compare_ram, create_ram

FIRMWARE_DIRS = ("/usr/share/seabios", "/usr/share/qemu",
                 "/usr/lib/ipxe/qemu")
FINAL_STATES = ("completed", "failed", "cancelled")
STDERR_TAIL_LINES = 15
# Before 9.0, a sync of the dirty bitmap left TCG's TLB entries writable.
FIRST_TO_TRACK_TCG = (9, 0, 0)


class VmError(Exception):
    """A QEMU did not start, or died."""


class MigrationError(Exception):
    """The migration did not end as it should."""

    def __init__(self, text: str, info: Dict[str, Any]) -> None:
        super().__init__(text)
        self.status = info.get("status", "none")
        self.desc = info.get("error-desc", "")
        self.info = info
        self.timeline: Optional[Dict[str, Any]] = None  # what was seen of it


@dataclasses.dataclass(frozen=True)
class MigrationResult:
    """What a completed migration reported about itself."""
    total_ms: int
    setup_ms: int
    downtime_ms: int
    transferred: int            # bytes
    normal_pages: int
    zero_pages: int
    mbps: float
    rounds: int                 # passes over the dirty bitmap
    info: Dict[str, Any]        # query-migrate's answer

    @staticmethod
    def of(info: Dict[str, Any]) -> "MigrationResult":
        ram = info["ram"]
        return MigrationResult(
            info["total-time"], info.get("setup-time", 0), info["downtime"],
            ram["transferred"], ram["normal"], ram["duplicate"],
            ram.get("mbps", 0.0), ram.get("dirty-sync-count", 0), info)


def die_with_parent() -> None:
    """For preexec_fn: killed when the thread that starts it has ended."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Vm:
    """One QEMU process. Start it from a thread that outlives it."""

    def __init__(self, name: str, qemu: str, workload: Workload,
                 work: pathlib.Path, *, machine: str = "pc",
                 extra: Sequence[str] = (), wrapper: Sequence[str] = (),
                 env: Optional[Dict[str, str]] = None,
                 private_ram: bool = False, used_ram: bool = False) -> None:
        """@private_ram: anonymous memory, where a page that was never touched
        costs nothing; it cannot be seen from outside.
        @used_ram: every page is mapped, as of a guest that has used it."""
        found = shutil.which(qemu)
        if found is None:
            raise VmError(f"{qemu}: no such program")
        self.name = name
        self.ram_bytes = workload.memory_mib << 20
        self._used_ram = used_ram
        self.ram_fd = (-1 if private_ram
                       else create_ram(f"rmig-{name}", self.ram_bytes))
        self.serial, self._serial_child = socket.socketpair()
        self._monitor, self._monitor_child = socket.socketpair()
        self.qmp = Qmp(self._monitor)
        self.process: Optional[subprocess.Popen] = None
        # Its label where it runs on verbsim.
        self._env = dict(os.environ, VERBSIM_NAME=name, **(env or {}))
        self._stderr_path = work / f"{name}.stderr"
        self._argv = [*wrapper, found, *self._machine_args(machine, workload),
                      *self._io_args(work / "guest.img"), *extra]

    @staticmethod
    def _firmware_args() -> List[str]:
        args = []
        for path in FIRMWARE_DIRS:
            if os.path.isdir(path):
                args += ["-L", path]
        return args

    def _machine_args(self, machine: str, workload: Workload) -> List[str]:
        size = f"{workload.memory_mib}M"
        backend = f"id=pc.ram,size={size}"
        if self.ram_fd < 0:
            backend = f"memory-backend-ram,{backend}"
        else:
            backend = (f"memory-backend-file,{backend},share=on,"
                       f"mem-path=/proc/self/fd/{self.ram_fd}")
        if self._used_ram:
            backend += ",prealloc=on"
        return ["-name", f"rmig-{self.name}", "-nodefaults",
                "-no-user-config", "-display", "none",
                *self._firmware_args(), "-accel", "tcg",
                "-machine", f"{machine},memory-backend=pc.ram", "-m", size,
                "-object", backend]

    def _io_args(self, image: pathlib.Path) -> List[str]:
        return ["-drive", f"if=floppy,format=raw,readonly=on,file={image}",
                "-chardev", f"socket,id=ser,fd={self._serial_child.fileno()}",
                "-serial", "chardev:ser",
                "-chardev", f"socket,id=mon,fd={self._monitor_child.fileno()}",
                "-mon", "chardev=mon,mode=control"]

    def start(self, *args: str) -> None:
        """Start QEMU with further arguments and wait for its monitor."""
        child_fds = [self._serial_child.fileno(),
                     self._monitor_child.fileno()]
        if self.ram_fd >= 0:
            child_fds.append(self.ram_fd)
        with open(self._stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(
                [*self._argv, *args], stdin=subprocess.DEVNULL,
                stdout=stderr, stderr=stderr, pass_fds=child_fds,
                start_new_session=True, preexec_fn=die_with_parent,
                env=self._env)
        self._serial_child.close()
        self._monitor_child.close()
        try:
            self.qmp.negotiate()
        except (QmpClosed, QmpTimeout) as error:
            raise VmError(f"{self.name}: QEMU did not start\n"
                          + self.stderr_tail()) from error

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def version(self) -> Tuple[int, ...]:
        return tuple(int(part) for part in self.qmp.version.split("."))

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def status(self) -> str:
        """QEMU's run state: running, paused, postmigrate, inmigrate …"""
        return self.qmp.cmd("query-status")["status"]

    def wait_status(self, *wanted: str, timeout: float = 120) -> str:
        deadline = time.monotonic() + timeout
        while True:
            status = self.status()
            if status in wanted:
                return status
            if time.monotonic() > deadline:
                raise VmError(f"{self.name} is {status}, not "
                              f"{' or '.join(wanted)}, after {timeout:.0f} s")
            time.sleep(0.02)

    def stop(self) -> None:
        self.qmp.cmd("stop")

    def cont(self) -> None:
        self.qmp.cmd("cont")

    def migration(self) -> Dict[str, Any]:
        return self.qmp.cmd("query-migrate")

    def set_capabilities(self, **values: bool) -> None:
        """set_capabilities(rdma_pin_all=True); '_' stands for '-'."""
        wanted = [{"capability": name.replace("_", "-"), "state": state}
                  for name, state in values.items()]
        self.qmp.cmd("migrate-set-capabilities", capabilities=wanted)

    def set_parameters(self, **values: Any) -> None:
        """set_parameters(max_bandwidth=1 << 40)."""
        self.qmp.cmd("migrate-set-parameters", **values)

    def stderr_text(self) -> str:
        if not self._stderr_path.exists():
            return ""
        return self._stderr_path.read_text(errors="replace")

    def stderr_tail(self) -> str:
        """How it ended, if it did, and its last words: for error messages."""
        lines = self.stderr_text().splitlines()[-STDERR_TAIL_LINES:]
        text = "\n".join("    " + line for line in lines) or "    (silent)"
        code = None if self.process is None else self.process.poll()
        state = "" if code is None else f" (exit status {code})"
        return f"  {self.name}{state} said:\n{text}"

    def wait_exit(self, timeout: float) -> int:
        """Wait until QEMU has gone of itself; its exit status."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise VmError(f"{self.name}: QEMU still runs after "
                          f"{timeout:.0f} s") from None

    def signal(self, number: int) -> None:
        """SIGSTOP, SIGCONT, SIGKILL … to QEMU alone."""
        if self.alive():
            os.kill(self.pid, number)

    def quit(self, timeout: float = 60) -> int:
        """Ask QEMU to exit, as a user would; its exit status."""
        try:
            self.qmp.cmd("quit")
        except QmpClosed:
            pass
        return self.wait_exit(timeout)

    def close(self) -> None:
        """Kill what still runs and free everything. May be called twice."""
        if self.alive():
            os.killpg(self.pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        for sock in (self.serial, self._serial_child,
                     self._monitor, self._monitor_child):
            sock.close()
        if self.ram_fd >= 0:
            os.close(self.ram_fd)
            self.ram_fd = -1


class SerialReader(threading.Thread):
    """Moves the bytes of every VM's serial port into the one console."""

    def __init__(self, console: Console) -> None:
        super().__init__(daemon=True)
        self._console = console
        self._epoll = select.epoll()
        self._sockets: Dict[int, socket.socket] = {}
        self._ended = False

    def add(self, sock: socket.socket) -> None:
        self._sockets[sock.fileno()] = sock
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def remove(self, sock: socket.socket) -> None:
        if self._sockets.pop(sock.fileno(), None):
            self._epoll.unregister(sock.fileno())

    def run(self) -> None:
        while not self._ended:
            # Oldest first: what the source still said comes first.
            for fd, _ in sorted(self._epoll.poll(0.5)):
                sock = self._sockets.get(fd)
                try:
                    data = (sock.recv(65536, socket.MSG_DONTWAIT) if sock
                            else b"")
                except OSError:     # its VM was closed just now
                    continue
                if data:
                    self._console.feed(data)
                elif sock:
                    self.remove(sock)

    def end(self) -> None:
        self._ended = True
        self.join()
        self._epoll.close()


class VmPair:
    """A source and its destinations, one after the other if need be."""

    def __init__(self, source_qemu: str, destination_qemu: str = "",
                 workload: Workload = Workload(), **options: Any) -> None:
        """@options go to both Vms: machine, extra, wrapper, env,
        private_ram; used_ram only to the source."""
        self.workload = workload
        self.console = Console()
        self._destination_qemu = destination_qemu or source_qemu
        source_only = {name: options.pop(name) for name in ("used_ram",)
                       if name in options}
        self._options = options
        self._temporary = tempfile.TemporaryDirectory(prefix="rmig-vm-")
        self.work = pathlib.Path(self._temporary.name)
        self._reader = SerialReader(self.console)
        self._reader.start()
        self._vms: List[Vm] = []
        self._destinations = 0
        try:
            write_image(self.work / "guest.img", workload)
            self.source = self._new_vm("source", source_qemu, **source_only)
        except BaseException:
            self.close()
            raise
        self.destination: Optional[Vm] = None

    def _new_vm(self, name: str, qemu: str, **options: Any) -> Vm:
        vm = Vm(name, qemu, self.workload, self.work, **self._options,
                **options)
        self._vms.append(vm)
        self._reader.add(vm.serial)
        return vm

    def __enter__(self) -> "VmPair":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        for vm in self._vms:
            self._drop(vm)
        self._reader.end()
        self._temporary.cleanup()

    def _drop(self, vm: Vm) -> None:
        if vm.serial.fileno() >= 0:
            self._reader.remove(vm.serial)
        vm.close()

    def start_source(self, *args: str) -> Vm:
        self.source.start(*args)
        return self.source

    def start_destination(self, uri: str = "defer", *, paused: bool = False,
                          qemu: str = "", args: Sequence[str] = ()) -> Vm:
        """Start a (further) destination; @paused: it completes with the
        guest stopped, as verify() needs it."""
        if self.destination is not None:
            self._drop(self.destination)
        self._destinations += 1
        vm = self._new_vm(f"destination-{self._destinations}",
                          qemu or self._destination_qemu)
        self.destination = vm
        vm.start("-incoming", uri, *(["-S"] if paused else []), *args)
        return vm

    @property
    def there(self) -> Vm:
        if self.destination is None:
            raise VmError("start_destination() first")
        return self.destination

    def listen(self, uri: str) -> None:
        """migrate-incoming, for a destination started with 'defer'."""
        self.there.qmp.cmd("migrate-incoming", uri=uri)

    def set_capabilities(self, **values: bool) -> None:
        """On both sides; the destination must have been started."""
        for vm in (self.there, self.source):
            vm.set_capabilities(**values)

    def begin(self, uri: str = "",
              channels: Optional[List[Dict[str, Any]]] = None) -> None:
        """Issue QMP migrate, by URI or in the channels form."""
        if (self.source.version < FIRST_TO_TRACK_TCG
                and self.source.status() == "running"):
            raise VmError(
                f"QEMU {self.source.qmp.version} under TCG does not see every "
                "write of a running guest and leaves pages behind, whatever "
                "the transport: call source.stop() before migrate()")
        if channels is not None:
            self.source.qmp.cmd("migrate", channels=channels)
        else:
            self.source.qmp.cmd("migrate", uri=uri)

    def wait_migration(self, timeout: float = 300,
                       on_progress: Optional[Callable[[Dict[str, Any]],
                                                      None]] = None,
                       period: float = 0.05) -> Dict[str, Any]:
        """Poll until a final state or @timeout; query-migrate's last answer."""
        deadline = time.monotonic() + timeout
        while True:
            info = self.source.migration()
            if on_progress is not None:
                on_progress(info)
            if (info.get("status") in FINAL_STATES
                    or time.monotonic() > deadline):
                return info
            time.sleep(period)

    def migrate(self, uri: str = "", *, timeout: float = 300,
                on_progress: Optional[Callable[[Dict[str, Any]],
                                               None]] = None,
                channels: Optional[List[Dict[str, Any]]] = None,
                period: float = 0.05) -> MigrationResult:
        """Migrate and wait until both sides have completed."""
        info: Dict[str, Any] = {}
        try:
            self.begin(uri, channels)
            info = self.wait_migration(timeout, on_progress, period)
            if info.get("status") == "completed":
                self.there.wait_status("running", "paused")
                return MigrationResult.of(info)
            what = f"the migration is {info.get('status', 'none')}"
            if info.get("error-desc"):
                what += f": {info['error-desc']}"
            if info.get("status") not in FINAL_STATES:
                what += f" after {timeout:.0f} s"
        except (QmpClosed, QmpError, QmpTimeout, VmError) as error:
            what = str(error)
        raise MigrationError(
            "\n".join([what, self.source.stderr_tail(),
                       self.there.stderr_tail()]), info)

    def verify(self, running: bool = False) -> RamComparison:
        """Compare all RAM of both sides, byte for byte, from outside.

        Both must be stopped, unless @running: then what a running guest may
        change (its variables and its hot set) is left out.
        """
        if self.source.ram_fd < 0:
            raise VmError("private RAM cannot be compared from outside")
        if not running:
            for vm in (self.source, self.there):
                if vm.status() in ("running", "inmigrate"):
                    raise VmError(f"{vm.name} is {vm.status()}: RAM can be "
                                  "compared only while both are stopped")
        result = compare_ram(
            self.source.ram_fd, self.there.ram_fd, self.source.ram_bytes,
            self.workload.changing_ranges() if running else ())
        if not result.equal:
            raise VmError("guest RAM was damaged: " + result.describe())
        return result

    def resume_destination(self) -> None:
        """Let the guest run on at the destination, and see it do so."""
        self.there.cont()
        self.console.wait_beats(3)

    def guest_verify(self, timeout: float = 300) -> int:
        """Have the guest re-read its memory, where it runs now; the pages."""
        runs = [vm for vm in self._vms
                if vm.alive() and vm.status() == "running"]
        if len(runs) != 1:
            raise VmError(f"the guest runs in {len(runs)} QEMUs, not in one")
        since = len(self.console.lines)
        runs[0].serial.sendall(b"v")
        pages = self.console.wait_verified(since, timeout)
        wanted = self.workload.random_pages + self.workload.hot_pages
        if pages != wanted:
            raise VmError(f"the guest verified {pages} pages, not {wanted}")
        return pages
