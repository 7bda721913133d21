# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of the lab VM: start QEMU, pass its streams through, end it.

Used by scripts/lab.  The guest's half of the conversation is lab_init.sh; the
ports are described there.  QEMU runs under TCG only: the lab must behave the
same with and without a usable /dev/kvm.
"""

import ctypes
import os
import secrets
import selectors
import shlex
import signal
import socket
import subprocess
import tempfile
import time

from pathlib import Path

from lab_image import (LabError, cached_initramfs, find_kernel, find_program,
                       job_archive)

BOOT_SECONDS = 300
STATUS_TIMEOUT = 124
PASS_ENV = ("HOME", "LANG", "LC_ALL", "TERM", "USER", "XDG_CACHE_HOME")
KERNEL_ARGS = ("console=ttyS0 quiet panic=-1 oops=panic mitigations=off "
               "nowatchdog rcupdate.rcu_cpu_stall_suppress=1 "
               "random.trust_cpu=on tsc=reliable")


class Stream:
    """Bytes from the guest up to the token that marks their end."""

    def __init__(self, token, sink):
        self.token = token
        self.sink = sink
        self.held = b""
        self.done = False

    def feed(self, data):
        data = self.held + data
        self.done = data.endswith(self.token)
        if self.done:
            keep = len(self.token)
        else:
            keep = self.possible_start(data)
        cut = len(data) - keep
        self.held = data[cut:]
        write_all(self.sink, data[:cut])

    def possible_start(self, data):
        """How many of the last bytes could be the start of the token."""
        for length in range(min(len(self.token), len(data)), 0, -1):
            if data.endswith(self.token[:length]):
                return length
        return 0


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def die_with_parent():
    """In the child: a killed lab must not leave its VM behind."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def job_script(command, memlock):
    """The shell script that runs the command inside; returns bytes."""
    env = {k: v for k, v in os.environ.items()
           if k in PASS_ENV or k.startswith("RMIG_")}
    # The Python that runs the lab comes first: a version manager's shim takes
    # seconds under emulation.
    env["PATH"] = ":".join((os.path.dirname(find_program("python3") or ""),
                            os.environ.get("PATH", ""), "/usr/sbin:/sbin"))
    lines = [f"ulimit -l {memlock}"]
    lines += [f"export {k}={shlex.quote(v)}" for k, v in env.items()]
    lines += [f"cd {shlex.quote(os.getcwd())} || exit 125",
              "exec " + shlex.join(command)]
    return os.fsencode("\n".join(lines) + "\n")


class Machine:
    """The VM and the host's side of its ports."""

    def __init__(self, options, command):
        self.options = options
        self.command = command
        self.token = secrets.token_hex(16).encode()
        self.selector = selectors.DefaultSelector()
        self.streams = {}
        self.control = b""
        self.status = None
        self.ready = False
        self.process = None
        self.folder = None

    # -- starting ---------------------------------------------------------

    def boot_files(self):
        found = find_kernel()
        if not found:
            raise LabError("no kernel under /boot has the modules for "
                           "Soft-RoCE; run: sudo apt-get install "
                           "linux-image-amd64")
        image, version, order = found
        initramfs = self.folder / "initramfs"
        script = job_script(self.command, self.options.memlock)
        initramfs.write_bytes(cached_initramfs(image, version, order)
                              + job_archive(script, self.token))
        return image, initramfs

    def port(self, name, handler, fds):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.selector.register(ours, selectors.EVENT_READ, handler)
        fds.append(theirs)
        return ["-chardev", f"socket,id={name},fd={theirs.fileno()}",
                "-device", f"virtserialport,chardev={name},name=rmig.{name}"]

    def qemu_command(self, fds):
        opt = self.options
        image, initramfs = self.boot_files()
        argv = [
            find_program("qemu-system-x86_64"), "-nodefaults",
            "-no-user-config", "-no-reboot", "-display", "none",
            "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-smp", str(opt.cpus), "-m", opt.mem,
            "-kernel", str(image), "-initrd", str(initramfs),
            "-append", KERNEL_ARGS,
            "-serial", f"file:{self.folder}/console",
            "-fsdev", "local,id=root,path=/,security_model=none,"
                      "readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
            "-fsdev", f"local,id=out,path={opt.out},security_model=none",
            "-device", "virtio-9p-pci,fsdev=out,mount_tag=out",
            "-netdev", "user,id=net0,restrict=on,ipv6=off",
            "-device", "virtio-net-pci,netdev=net0,romfile=",
            "-device", "virtio-serial-pci",
        ]
        argv += self.port("ctl", self.on_control, fds)
        if opt.shell:
            argv += ["-chardev", "stdio,id=tty,signal=off",
                     "-device", "virtconsole,chardev=tty"]
        else:
            for name, sink in (("out", 1), ("err", 2)):
                self.streams[name] = Stream(self.token, sink)
                argv += self.port(name, self.streams[name].feed, fds)
        return argv

    def start(self):
        fds = []
        argv = self.qemu_command(fds)
        stdio = None if self.options.shell else subprocess.DEVNULL
        with open(self.folder / "qemu", "wb") as errors:
            self.process = subprocess.Popen(
                argv, stdin=stdio, stdout=stdio, stderr=errors,
                pass_fds=[s.fileno() for s in fds],
                preexec_fn=die_with_parent,
                start_new_session=not self.options.shell)
        for theirs in fds:
            theirs.close()

    # -- running ----------------------------------------------------------

    def on_control(self, data):
        self.control += data
        while b"\n" in self.control:
            line, self.control = self.control.split(b"\n", 1)
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "ready":
                self.ready = True
            elif word == "exit":
                self.status = int(rest)
            elif word == "fail":
                raise LabError(f"{rest}\n{self.last_words()}")

    def finished(self):
        return (self.status is not None
                and all(s.done for s in self.streams.values()))

    def serve(self, deadline):
        """Pass bytes on until the end, QEMU's exit or the deadline."""
        was_ready = self.ready
        while not self.finished() and self.ready == was_ready:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            events = self.selector.select(min(left, 3600))
            for key, _ in events:
                data = key.fileobj.recv(1 << 16)
                if not data:
                    raise LabError(self.post_mortem())
                key.data(data)
        return True

    def run(self):
        """Run the command; its exit status, or STATUS_TIMEOUT."""
        with tempfile.TemporaryDirectory(prefix="rmig-lab.") as folder:
            self.folder = Path(folder)
            try:
                self.start()
                if not self.serve(time.monotonic() + BOOT_SECONDS):
                    raise LabError(f"the VM did not come up in {BOOT_SECONDS}"
                                   f" s\n{self.last_words()}")
                limit = self.options.timeout or float("inf")
                if not self.serve(time.monotonic() + limit):
                    raise TimeoutError(self.last_words())
                return self.status
            finally:
                self.stop()

    def stop(self):
        if self.process:
            # The shell's terminal is restored by QEMU's own exit.
            self.process.send_signal(signal.SIGTERM if self.options.shell
                                     else signal.SIGKILL)
            self.process.wait()

    # -- reporting --------------------------------------------------------

    def read(self, name):
        try:
            text = (self.folder / name).read_bytes().decode(errors="replace")
        except FileNotFoundError:
            text = ""
        return text.replace("\r", "").strip()

    def last_words(self):
        parts = [f"{title}:\n{text}" for title, text in (
            ("QEMU said", self.read("qemu")),
            ("the VM's console said",
             "\n".join(self.read("console").splitlines()[-40:]))) if text]
        return "\n".join(parts) or "(nothing on the VM's console)"

    def post_mortem(self):
        status = self.process.wait()
        if "Kernel panic" in self.read("console"):
            what = ("the VM's kernel crashed; the lines below say where. If "
                    "memory ran out, give it more with --mem")
        else:
            what = (f"QEMU ended with status {status} before the command did;"
                    " if it could not get memory, give it less with --mem")
        return f"{what}\n{self.last_words()}"
