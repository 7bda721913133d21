# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab itself: streams, exit status, limits, and the device it promises.

Run on the host, from anywhere:  python3 tests/lab/lab_test.py
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import unittest

from pathlib import Path

sys.dont_write_bytecode = True
REPO = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPO / "scripts" / "lib"))

from lab_image import Cpio  # noqa: E402
from lab_machine import Stream  # noqa: E402

# Binary, and more than any buffer on the way holds.
NOISE = """
import hashlib, sys
block = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(65536))
for stream in (sys.stdout, sys.stderr):
    stream.buffer.write(block)
sys.exit(41)
"""

PROMISES = r"""
set -eu
[ "$(pwd)" = "$1" ]
[ "$RMIG_TEST_WORD" = "two  words" ]
[ "$(ulimit -l)" = 65536 ]
[ ! -e /dev/kvm ]
ibv_devinfo | grep -q 'active_mtu:.*4096'
ibv_devinfo | grep -q PORT_ACTIVE
for name in "$RMIG_LAB_ADDR4" "$RMIG_LAB_ADDR6" lab lab4 lab6; do
    rping -s -a "$name" -p 9999 -C 2 >/tmp/server 2>&1 &
    # Until it listens, a client is refused.
    until timeout 60 rping -c -a "$name" -p 9999 -C 2 >/tmp/client 2>&1; do
        kill -0 $!
        sleep 0.2
    done
    wait $!
done
echo kept >"$RMIG_LAB_OUT/result"
sleep 600 &
"""


def lab(*args, **env):
    return subprocess.run([REPO / "scripts" / "lab", *args],
                          capture_output=True, env=dict(os.environ, **env))


class StreamTest(unittest.TestCase):
    def test_token_is_removed_wherever_it_is_cut(self):
        token = b"abababc"
        data = b"xx" + token[:5] + b"yabab" + token
        for cut in range(len(data) + 1):
            for width in (1, 2, 3, len(data)):
                with tempfile.TemporaryFile() as sink:
                    stream = Stream(token, sink.fileno())
                    stream.feed(data[:cut])
                    for at in range(cut, len(data), width):
                        self.assertFalse(stream.done)
                        stream.feed(data[at:at + width])
                    self.assertTrue(stream.done)
                    sink.seek(0)
                    self.assertEqual(sink.read(), data[:-len(token)])


class CpioTest(unittest.TestCase):
    def test_cpio_reads_it(self):
        cpio = Cpio()
        cpio.directory("d")
        cpio.file("d/f", b"12345")
        cpio.link("d/l", "f")
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["/bin/busybox", "cpio", "-i"], cwd=folder,
                           input=cpio.bytes(), check=True,
                           stderr=subprocess.DEVNULL)
            self.assertEqual((Path(folder) / "d" / "l").read_bytes(),
                             b"12345")


class MachineTest(unittest.TestCase):
    def test_output_is_intact_and_status_is_passed(self):
        run = lab("python3", "-c", NOISE)
        block = b"".join(hashlib.sha256(b"%d" % n).digest()
                         for n in range(65536))
        self.assertEqual(run.returncode, 41)
        self.assertEqual(run.stdout, block)
        self.assertTrue(run.stderr.endswith(block))

    def test_what_the_lab_promises(self):
        with tempfile.TemporaryDirectory() as out:
            run = lab("--memlock", "65536", "--out", out, "--", "sh", "-xc",
                      PROMISES, "sh", os.getcwd(), RMIG_TEST_WORD="two  words")
            self.assertEqual(run.returncode, 0, run.stderr.decode())
            self.assertEqual((Path(out) / "result").read_text(), "kept\n")

    def test_time_limit(self):
        run = lab("--timeout", "20", "sh", "-c", "echo before; sleep 6000")
        self.assertEqual(run.returncode, 124)
        self.assertEqual(run.stdout, b"before\n")
        self.assertIn(b"--timeout", run.stderr)

    def test_kernel_crash_is_reported(self):
        run = lab("sh", "-c", "echo c >/proc/sysrq-trigger")
        self.assertEqual(run.returncode, 125)
        self.assertIn(b"kernel crashed", run.stderr)


if __name__ == "__main__":
    unittest.main()
