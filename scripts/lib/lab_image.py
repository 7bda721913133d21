# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab VM boots: the kernel, the initramfs, and what must be installed.

Used by scripts/lab.  The kernel is Debian's own, found under /boot; the
initramfs holds static busybox, the kernel modules that the lab needs (in the
order in which they load) and lab_init.sh.  It is kept in the project's cache
and built anew when any of its ingredients changes.
"""

import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys

from pathlib import Path

LIB = Path(__file__).resolve().parent
INIT = LIB / "lab_init.sh"
BUSYBOX = Path("/bin/busybox")

# Loaded at boot, with what they depend on; everything else that Debian's
# kernel has can be loaded later with modprobe.
MODULES = (
    "virtio_pci", "virtio_console", "virtio_net", "9pnet_virtio", "9p",
    "overlay", "crc32_generic", "rdma_rxe", "rdma_ucm",
)

# Programs and the packages they come from.
PROGRAMS = (
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("modprobe", "kmod"),
    ("ip", "iproute2"),
    ("rdma", "iproute2"),
    ("ibv_devinfo", "ibverbs-utils"),
    ("rping", "rdmacm-utils"),
)
SBIN_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"


class LabError(Exception):
    """The lab itself cannot do its work; the text says what to do."""


def log(text):
    print(f"lab: {text}", file=sys.stderr, flush=True)


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RMIG_CACHE")
                or Path(base) / "qemu-rdma-migration")


def find_program(name):
    return shutil.which(name, path=SBIN_PATH)


def is_static_busybox():
    """Debian's plain busybox is linked dynamically and cannot be process 1."""
    listing = Path("/var/lib/dpkg/info/busybox-static.list")
    return BUSYBOX.exists() and listing.exists()


def has_verbs_provider():
    return any(Path("/usr/lib").glob("*/libibverbs/librxe-rdmav*.so"))


def module_order(version):
    """The modules to load, in order; None if this kernel lacks one."""
    order = []
    for name in MODULES:
        run = subprocess.run(
            [find_program("modprobe"), "--set-version", version,
             "--show-depends", "--ignore-install", name],
            capture_output=True, text=True)
        if run.returncode != 0:
            return None
        for line in run.stdout.splitlines():
            words = line.split()
            if words[0] == "insmod" and words[1] not in order:
                order.append(words[1])
    return order


def find_kernel():
    """The newest installed kernel that has all the modules, or None."""
    def age(path):
        return [int(n) for n in re.findall(r"\d+", path.name)]

    if not find_program("modprobe"):
        return None
    for image in sorted(Path("/boot").glob("vmlinuz-*"), key=age,
                        reverse=True):
        version = image.name[len("vmlinuz-"):]
        if os.access(image, os.R_OK):
            order = module_order(version)
            if order:
                return image, version, order
    return None


def missing_packages():
    missing = [package for program, package in PROGRAMS
               if not find_program(program)]
    if not is_static_busybox():
        missing.append("busybox-static")
    if not has_verbs_provider():
        missing.append("ibverbs-providers")
    if not missing and not find_kernel():
        missing.append("linux-image-amd64")
    elif missing and not list(Path("/boot").glob("vmlinuz-*-amd64")):
        missing.append("linux-image-amd64")
    return list(dict.fromkeys(missing))


def ensure_packages():
    """Install what is missing, or say how."""
    missing = missing_packages()
    if not missing:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends"]
    command = " ".join(install[:2] + install[3:] + missing)
    if os.uname().machine != "x86_64" or not find_program("apt-get"):
        raise LabError("the lab needs an amd64 Debian; missing here: "
                       + " ".join(missing))
    if os.geteuid() != 0:
        raise LabError(f"missing packages; run: sudo {command}")
    log(f"installing what the lab needs: {' '.join(missing)}")
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for argv in (["apt-get", "update", "-q"], install + ["-q"] + missing):
        # The command's standard output is not ours to write to.
        if subprocess.run(argv, env=env, stdout=2).returncode != 0:
            raise LabError(f"'{' '.join(argv)}' failed; mend that and run "
                           f"this again, or install by hand: {command}")
    still = missing_packages()
    if still:
        raise LabError("still missing after the installation: "
                       + " ".join(still))


class Cpio:
    """A writer of the 'newc' archive format that the kernel unpacks."""

    def __init__(self):
        self.parts = []
        self.inode = 0

    def add(self, name, mode, data=b""):
        self.inode += 1
        name = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0,
                  len(name), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields)
        self.parts.append(self.pad(head + name) + self.pad(data))

    @staticmethod
    def pad(data):
        return data + b"\0" * (-len(data) % 4)

    def file(self, name, data, mode=0o755):
        self.add(name, stat.S_IFREG | mode, data)

    def directory(self, name):
        self.add(name, stat.S_IFDIR | 0o755)

    def link(self, name, target):
        self.add(name, stat.S_IFLNK | 0o777, target.encode())

    def bytes(self):
        self.add("TRAILER!!!", 0)
        return b"".join(self.parts)


def build_initramfs(order):
    cpio = Cpio()
    for name in ("bin", "sbin", "dev", "proc", "sys", "modules"):
        cpio.directory(name)
    cpio.file("bin/busybox", BUSYBOX.read_bytes())
    listing = subprocess.run([BUSYBOX, "--list"], capture_output=True,
                             text=True, check=True)
    for applet in listing.stdout.split():
        if applet != "busybox":
            cpio.link(f"bin/{applet}", "busybox")
    # The kernel asks for further modules here; the host's root has them.
    cpio.file("sbin/modprobe",
              b'#!/bin/sh\nexec /bin/chroot /new /sbin/modprobe "$@"\n')
    names = ""
    for path in map(Path, order):
        data = path.read_bytes()
        if path.suffix == ".xz":
            path, data = path.with_suffix(""), lzma.decompress(data)
        cpio.file(f"modules/{path.name}", data)
        names += f"{path.name}\n"
    cpio.file("modules/order", names.encode())
    cpio.file("init", INIT.read_bytes())
    return cpio.bytes()


def cached_initramfs(image, version, order):
    """The initramfs (its bytes), from the cache if it is still right."""
    key = hashlib.sha256(INIT.read_bytes() + Path(__file__).read_bytes())
    for path in [image, BUSYBOX, *order]:
        info = os.stat(path)
        key.update(f"{path} {info.st_size} {info.st_mtime_ns}\n".encode())
    folder = cache_dir() / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"initramfs-{version}-{key.hexdigest()[:16]}.cpio"
    try:
        return target.read_bytes()
    except FileNotFoundError:
        log(f"building {target}")
    data = build_initramfs(order)
    for old in folder.glob("initramfs-*.cpio"):
        old.unlink(missing_ok=True)
    # Rename last: another lab may start at the same moment.
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    fresh.write_bytes(data)
    fresh.rename(target)
    return data


def job_archive(script, token):
    """The part of the initramfs that differs from one start to the next."""
    cpio = Cpio()
    cpio.file("job.sh", script)
    cpio.file("token", token, 0o644)
    return cpio.bytes()
