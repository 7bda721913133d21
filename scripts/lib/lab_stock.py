# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own QEMUs, to hold ours against: fetched, never installed.

Used by tests/lab/ and, as a program, by a person:

    python3 scripts/lib/lab_stock.py        fetch both, print where they are

The packages and whatever they need that this machine lacks come from Debian's
archive, through an apt configuration of our own in the cache: the archive's
address is read from the machine's configuration, and apt checks signatures and
hashes as always.  They are unpacked beside it, and a small program starts each
QEMU with its own libraries, modules and firmware.
"""

import functools
import os
import shlex
import shutil
import subprocess
import sys

from pathlib import Path

from lab_image import LabError, cache_dir, log

SUITES = {"7.2": "bookworm", "10.0": "bookworm-backports"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DPKG_STATUS = Path("/var/lib/dpkg/status")
# Wanted from the archive even where another version of it is installed.
FRESH = ("qemu-", "seabios", "ipxe-qemu")
PROGRAM = "qemu-system-x86_64"
PLACES = "usr/lib/x86_64-linux-gnu"
# Where a package that was built for a split /usr has its libraries
OLD_PLACES = "lib/x86_64-linux-gnu"


def folder():
    return cache_dir() / "stock-qemu"


def program(version):
    return folder() / version / PROGRAM


def archive_uri():
    """The archive that this machine gets Debian's main component from."""
    run = subprocess.run(
        ["apt-get", "indextargets", "--format",
         "$(REPO_URI) $(COMPONENT) $(LABEL)", "Created-By: Packages"],
        capture_output=True, text=True)
    for line in run.stdout.splitlines():
        uri, component, label = line.split(" ", 2)
        if component == "main" and label == "Debian":
            return uri
    raise LabError("apt knows no Debian archive here (component main); add "
                   "one to /etc/apt/sources.list and run: apt-get update")


def write_status(target):
    """dpkg's status without the packages that must come from the archive."""
    stanzas = DPKG_STATUS.read_text(encoding="utf-8").split("\n\n")
    kept = [s for s in stanzas
            if not s.split("\n", 1)[0][len("Package: "):].startswith(FRESH)]
    target.write_text("\n\n".join(kept), encoding="utf-8")


class Apt:
    """apt-get with lists, archives and sources of its own in the cache."""

    def __init__(self, base):
        self.base = base
        for name in ("lists/partial", "archives/partial", "empty"):
            (base / name).mkdir(parents=True, exist_ok=True)
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        uri = archive_uri()
        (base / "sources.list").write_text(
            "".join(f"deb {signed}{uri} {suite} main\n"
                    for suite in SUITES.values()))
        write_status(base / "status")

    def run(self, *args):
        base = self.base
        settings = {
            "Dir::Etc::sourcelist": base / "sources.list",
            "Dir::Etc::sourceparts": base / "empty",
            "Dir::Etc::preferencesparts": base / "empty",
            "Dir::State::lists": base / "lists",
            "Dir::State::status": base / "status",
            "Dir::Cache::archives": base / "archives",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Sandbox::User": "root",
            "Debug::NoLocking": "1",
        }
        argv = ["apt-get", "-q"]
        for name, value in settings.items():
            argv += ["-o", f"{name}={value}"]
        run = subprocess.run(argv + list(args), capture_output=True, text=True)
        if run.returncode != 0:
            raise LabError(f"'apt-get {' '.join(args)}' failed:\n"
                           f"{run.stdout}{run.stderr}")


def wrapper(root):
    """A program that starts the unpacked QEMU with all that is its own.

    What the caller's LD_LIBRARY_PATH has comes first: verbsim, if anything.
    """
    lib = root / PLACES
    quoted = functools.partial(map, lambda path: shlex.quote(str(path)))
    libs = ":".join(quoted((lib, root / OLD_PLACES)))
    modules, binary = quoted((lib / "qemu", root / "usr/bin" / PROGRAM))
    firmware = " ".join("-L " + path for path in quoted(
        (root / "usr/share/seabios", root / "usr/share/qemu",
         root / "usr/lib/ipxe/qemu")))
    return ("#!/bin/sh\n"
            'LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}"'
            f"{libs}\n"
            f"export LD_LIBRARY_PATH QEMU_MODULE_DIR={modules}\n"
            f'exec {binary} {firmware} "$@"\n')


def write_wrapper(start, root):
    """Unless it is there as this version of us writes it."""
    text = wrapper(root)
    if start.exists() and start.read_text() == text:
        return
    fresh = start.with_name(f"{start.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.chmod(0o755)
    fresh.replace(start)


def unpack(version, archives):
    """Unpack into a fresh directory that takes its place when it is right."""
    final = folder() / version
    work = final.with_name(f"{version}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        for deb in sorted(archives.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", deb, work / "root"], check=True)
        start = work / PROGRAM
        write_wrapper(start, work / "root")
        run = subprocess.run([start, "--version"], capture_output=True,
                             text=True)
        if run.returncode != 0:
            raise LabError(f"Debian's QEMU {version} does not start here:\n"
                           f"{run.stderr}")
        write_wrapper(start, final / "root")
        shutil.rmtree(final, ignore_errors=True)
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fetch(versions=tuple(SUITES)):
    """Fetch what is not there yet."""
    wanted = [v for v in versions if not program(v).exists()]
    if not wanted:
        return
    if not shutil.which("apt-get"):
        raise LabError("Debian's QEMUs can only be fetched with apt-get")
    apt = Apt(folder() / "apt")
    log("reading the package lists of Debian's archive")
    apt.run("update")
    for version in wanted:
        log(f"fetching Debian's QEMU {version} ({SUITES[version]}), "
            f"into {folder()}, not installed")
        apt.run("clean")
        apt.run("install", "-y", "--download-only", "--no-install-recommends",
                "-t", SUITES[version], "qemu-system-x86")
        unpack(version, apt.base / "archives")
    apt.run("clean")


def locate(version):
    """The program of a stock QEMU; an error with the remedy if not there."""
    path = program(version)
    if not path.exists():
        raise LabError(f"Debian's QEMU {version} is not in the cache; run, "
                       "outside the lab: python3 scripts/lib/lab_stock.py")
    write_wrapper(path, path.parent / "root")
    return str(path)


def main():
    try:
        fetch()
        for version in SUITES:
            print(locate(version))
    except LabError as error:
        log(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
