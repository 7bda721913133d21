# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab's test programs share: options, the device, the report.

The programs run where an RDMA device is active, usually in the lab:

    scripts/lab tests/lab/interop
"""

import argparse
import itertools
import signal
import sys
import time

from pathlib import Path

sys.dont_write_bytecode = True
REPO = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPO / "scripts" / "lib"))

from guest import GuestError  # noqa: E402
from lab_image import LabError  # noqa: E402
from lab_stock import SUITES, locate  # noqa: E402
from qmp import QmpClosed, QmpError, QmpTimeout  # noqa: E402
from rdma_device import NoDevice, find_device  # noqa: E402
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


class Report:
    """One line a case as it ends, and a closing line."""

    def __init__(self, only=""):
        self.only = only
        self.counts = {"ok": 0, "FAIL": 0, "skip": 0}

    def line(self, verdict, case, text):
        self.counts[verdict] += 1
        first, *rest = text.splitlines() or [""]
        print(f"{verdict:4} {case} - {first}", flush=True)
        for more in rest:
            print(f"     {more}", flush=True)

    def run(self, case, function, *args):
        """Run a case: it returns its figures, or raises."""
        if self.only not in case:
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
    result = argparse.ArgumentParser(
        prog=f"tests/lab/{name}", description=text, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--qemu", default=str(OURS), metavar="PATH",
                        help="our QEMU (default: the one built here); for "
                             "Debian's give one of " + ", ".join(SUITES))
    result.add_argument("--only", default="", metavar="TEXT",
                        help="run only the cases with TEXT in their names")
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
        raise LabError(f"{error}; run it in the lab: "
                       f"scripts/lab tests/lab/{name}") from None


ports = itertools.count(4440)


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
