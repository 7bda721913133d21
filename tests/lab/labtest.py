# SPDX-License-Identifier: GPL-2.0-or-later
"""What these test programs share: options, the device, the report.

They run wherever there is an RDMA device to use; on a machine without one

    scripts/verbsim tests/lab/interop       on verbsim, natively
    scripts/lab tests/lab/interop           in the lab, on the real stack
"""

import argparse
import itertools
import os
import queue
import re
import signal
import sys
import threading
import time

from pathlib import Path

sys.dont_write_bytecode = True
REPO = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPO / "scripts" / "lib"))

from guest import GuestError  # noqa: E402
from lab_image import LabError  # noqa: E402
from lab_stock import SUITES, locate  # noqa: E402
from qmp import QmpClosed, QmpError, QmpTimeout  # noqa: E402
from rdma_device import NoDevice, find_device, on_verbsim  # noqa: E402
from verbsim import Fabric  # noqa: E402
from vmpair import MigrationError, VmError  # noqa: E402

OURS = REPO / "build-qemu" / "qemu-system-x86_64"
# Known to every QEMU here, so that any of them can migrate to any other.
MACHINE = "pc-i440fx-7.2"
UNLIMITED = 1 << 40
FAILURES = (GuestError, LabError, MigrationError, QmpClosed, QmpError,
            QmpTimeout, VmError)
STATUS_FAILED = 1
STATUS_CANNOT_RUN = 77


class CheckFailed(Exception):
    """A test's expectation was not met."""


class Skip(Exception):
    """A case cannot pass here, for a reason that is not ours."""


def expect(condition, text):
    if not condition:
        raise CheckFailed(text)


def until(what, seconds, condition, period=0.02):
    """Wait for condition(); how long that took, in seconds."""
    began = time.monotonic()
    while not condition():
        spent = time.monotonic() - began
        expect(spent <= seconds, f"{what}: not within {seconds:g} s")
        time.sleep(period)
    return time.monotonic() - began


def in_parallel(jobs, tasks):
    """Call all of @tasks, up to @jobs of them at a time; the first error.

    In daemon threads, so that an interrupted program just ends, and its QEMUs
    with it.
    """
    left, errors = queue.SimpleQueue(), []
    for task in tasks:
        left.put(task)

    def work():
        while not errors:
            try:
                task = left.get_nowait()
            except queue.Empty:
                return
            try:
                task()
            except Exception as error:      # raised again below
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True)
               for _ in range(min(jobs, left.qsize()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Report:
    """One line a case as it ends, and a closing line. Any thread may add."""

    def __init__(self, only=()):
        self.only = only
        self.counts = {"ok": 0, "FAIL": 0, "skip": 0}
        self.lock = threading.Lock()

    def wants(self, case):
        return not self.only or any(re.search(pattern, case)
                                    for pattern in self.only)

    def line(self, verdict, case, text):
        first, *rest = text.splitlines() or [""]
        lines = [f"{verdict:4} {case} - {first}"]
        lines += [f"     {more}" for more in rest]
        with self.lock:
            self.counts[verdict] += 1
            print("\n".join(lines), flush=True)

    def run(self, case, function, *args):
        """Run a case: it returns its figures, or raises."""
        if not self.wants(case):
            return
        began = time.monotonic()
        try:
            figures = function(*args)
        except Skip as reason:
            self.line("skip", case, str(reason))
        except (CheckFailed, *FAILURES) as error:
            self.line("FAIL", case, str(error))
        else:
            spent = time.monotonic() - began
            self.line("ok", case, f"{figures} ({spent:.1f} s)")

    def close(self):
        """The closing line; the program's exit status."""
        counts = self.counts
        print(f"{counts['ok']} passed, {counts['FAIL']} failed, "
              f"{counts['skip']} skipped", flush=True)
        if counts["FAIL"]:
            return STATUS_FAILED
        return 0 if counts["ok"] else STATUS_CANNOT_RUN


def parser(name, text):
    """With what all of the programs understand."""
    result = argparse.ArgumentParser(
        prog=f"tests/lab/{name}", description=text, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--only", default=[], metavar="PATTERN",
                        action="append",
                        help="run only the cases whose names this regular "
                             "expression matches; may be given again for "
                             "more of them")
    result.add_argument("--jobs", type=int, metavar="N",
                        default=os.cpu_count() + 1 if on_verbsim() else 1,
                        help="how much to do at the same time (default: one "
                             "more than processors on verbsim, else 1)")
    return result


def qemu_parser(name, text):
    result = parser(name, text)
    result.add_argument("--qemu", default=str(OURS), metavar="PATH",
                        help="our QEMU (default: the one built here); for "
                             "Debian's give one of " + ", ".join(SUITES))
    return result


def resolve_qemu(text):
    """A path, or a version of Debian's QEMU."""
    if text in SUITES:
        return locate(text)
    if not Path(text).is_file():
        raise LabError(f"there is no QEMU at {text}; build it (./configure "
                       "--enable-rdma --target-list=x86_64-softmmu && make) "
                       "or name another with --qemu")
    return str(Path(text).resolve())


def require_device(name):
    try:
        return find_device()
    except NoDevice as error:
        raise LabError(f"{error}; run it on verbsim, scripts/verbsim "
                       f"tests/lab/{name}, or in the lab, scripts/lab "
                       f"tests/lab/{name}") from None


def tell_verbsim(pid, line):
    """verbsim's answer in that process; None if it has not opened a device."""
    fabric = Fabric()
    for process in fabric.processes():
        if process.pid == pid:
            return fabric.ask(process, line)
    return None


# Others of these programs may run beside this one, on the same addresses.
ports = itertools.count(4440 + os.getpid() % 500 * 50)


def uri(host):
    """A migration URI that was not used before: old connections linger."""
    return f"rdma:{host}:{next(ports)}"


def program(name, main):
    """Run main(); what keeps it from running at all ends here."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        sys.exit(main())
    except LabError as error:
        print(f"tests/lab/{name}: cannot run: {error}", file=sys.stderr)
        sys.exit(STATUS_CANNOT_RUN)
    except KeyboardInterrupt:
        sys.exit(130)
