#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the driver that the demonstration and the interop runs rely on.

What matters most is that it finds damage: a check that cannot fail proves
nothing. Needs no RDMA. The last class migrates over TCP with the QEMU in
$RMIG_TEST_QEMU, or the one that Debian installs.
"""
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
SCRIPTS = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS / "lib"))

from demo_run import free_port  # noqa: E402
from guest import (PARAMS, PARAMS_OFFSET, Beat, Console,  # noqa: E402
                   GuestError, Workload, compiled_guest, write_image)
from progress import ProgressLine, bar  # noqa: E402
from ram import PAGE_BYTES, compare_ram, create_ram  # noqa: E402
from vmpair import MigrationError, VmError, VmPair  # noqa: E402

QEMU = os.environ.get("RMIG_TEST_QEMU", "qemu-system-x86_64")
SMALL = Workload(memory_mib=96, random_mib=32, hot_mib=4, dirty_mib_per_s=1,
                 sweep_mib_per_s=8)


class ConsoleTest(unittest.TestCase):
    def test_line_cut_between_two_sides(self):
        console = Console()
        console.feed(b"boot\nready\nbeat 000001 gen 0000")
        console.feed(b"03 sweep 000002 ok\r\n")
        self.assertEqual(len(console.beats), 1)
        beat = console.beats[0]
        self.assertEqual((beat.number, beat.generation, beat.sweep, beat.bad),
                         (1, 3, 2, 0))

    def test_error_ends_a_wait(self):
        console = Console()
        console.feed(b"error page 0x00001234\n")
        with self.assertRaisesRegex(GuestError, "0x00001234"):
            console.wait_ready(timeout=1)

    def test_bad_verdict_is_an_error(self):
        console = Console()
        console.feed(b"verified 000100 pages bad 000001\n")
        with self.assertRaisesRegex(GuestError, "bad 000001"):
            console.wait_verified(0, timeout=1)

    def test_silence_is_an_error(self):
        with self.assertRaisesRegex(GuestError, "no heartbeat"):
            Console().wait_ready(timeout=0.01)

    def test_pulse_counts_lost_and_missed(self):
        console = Console()
        for at, number in ((0, 1), (0.1, 2), (0.5, 3), (0.6, 5)):
            console.beats.append(Beat(at, number, 0, 0, 0))
        pulse = console.pulse(0, 1)
        self.assertEqual((pulse.beats, pulse.lost, pulse.missed), (4, 1, 2))
        self.assertAlmostEqual(pulse.longest_gap_s, 0.4)

    def test_pulse_of_a_dead_guest(self):
        with self.assertRaisesRegex(GuestError, "does not run"):
            Console().pulse(0, 1)


class RamTest(unittest.TestCase):
    SIZE = 8 << 20

    def setUp(self):
        self.one, self.other = (create_ram(name, self.SIZE) for name in "ab")
        self.addCleanup(os.close, self.one)
        self.addCleanup(os.close, self.other)

    def test_holes_and_zeros_are_equal(self):
        os.pwrite(self.one, bytes(PAGE_BYTES), 5 << 20)
        result = compare_ram(self.one, self.other, self.SIZE)
        self.assertTrue(result.equal)
        self.assertEqual(result.compared, self.SIZE)

    def test_every_byte_counts(self):
        for offset in (0, (3 << 20) - 1, 3 << 20, self.SIZE - 1):
            os.pwrite(self.other, b"x", offset)
            result = compare_ram(self.one, self.other, self.SIZE)
            self.assertEqual(result.different_pages, 1, hex(offset))
            page = offset // PAGE_BYTES * PAGE_BYTES
            self.assertEqual(result.first_different, [page])
            os.pwrite(self.other, b"\0", offset)

    def test_only_the_skipped_range_is_left_out(self):
        skip = [(1 << 20, 2 << 20)]
        os.pwrite(self.one, b"x", 1 << 20)
        result = compare_ram(self.one, self.other, self.SIZE, skip)
        self.assertTrue(result.equal)
        self.assertEqual(result.compared, self.SIZE - (1 << 20))
        os.pwrite(self.one, b"x", 2 << 20)
        result = compare_ram(self.one, self.other, self.SIZE, skip)
        self.assertEqual(result.first_different, [2 << 20])


class WorkloadTest(unittest.TestCase):
    def test_must_fit(self):
        Workload(memory_mib=64, random_mib=32, hot_mib=15).pack()
        for load in (Workload(memory_mib=64, random_mib=32, hot_mib=16),
                     Workload(memory_mib=4096, random_mib=3072)):
            with self.assertRaisesRegex(GuestError, "do not fit"):
                load.pack()

    def test_rates_become_pages_per_tick(self):
        load = Workload(dirty_mib_per_s=20, sweep_mib_per_s=0.001)
        *_, hot, sweep = PARAMS.unpack(load.pack())
        self.assertEqual((hot, sweep), (256, 1))

    def test_image(self):
        with tempfile.TemporaryDirectory() as work:
            path = pathlib.Path(work) / "guest.img"
            write_image(path, SMALL)
            image = path.read_bytes()
        self.assertEqual(len(image), 1440 * 1024)
        self.assertEqual(image[510:512], b"\x55\xaa")
        self.assertEqual(PARAMS.unpack_from(image, PARAMS_OFFSET),
                         PARAMS.unpack(SMALL.pack()))
        self.assertLessEqual(len(compiled_guest()), 18 * 512)


class ProgressTest(unittest.TestCase):
    def test_bar(self):
        self.assertEqual(bar(0, 6), "[>   ]")
        self.assertEqual(bar(0.5, 6), "[==> ]")
        self.assertEqual(bar(1.5, 6), "[====]")

    def test_plain_output_is_sparse_and_keeps_the_last(self):
        out = io.StringIO()
        line = ProgressLine(False, out, plain_seconds=60)
        for text in ("one", "two", "three"):
            line.show(text)
        line.end()
        self.assertEqual(out.getvalue(), "one\nthree\n")


@unittest.skipUnless(shutil.which(QEMU),
                     f"no {QEMU}: apt-get install qemu-system-x86")
class PairTest(unittest.TestCase):
    """With the guest stopped at the source, so that any QEMU will do."""

    def migrate(self, pair):
        pair.start_source()
        pair.console.wait_ready()
        pair.source.stop()
        uri = f"tcp:127.0.0.1:{free_port('127.0.0.1')}"
        pair.start_destination(uri, paused=True)
        return pair.migrate(uri)

    def test_intact(self):
        with VmPair(QEMU, workload=SMALL) as pair:
            result = self.migrate(pair)
            self.assertGreater(result.normal_pages, SMALL.random_pages)
            self.assertEqual(pair.verify().compared, SMALL.memory_mib << 20)
            pair.resume_destination()
            self.assertEqual(pair.guest_verify(),
                             SMALL.random_pages + SMALL.hot_pages)
            since = pair.console.beats[-1]
            pair.console.wait(
                "sweep", lambda: pair.console.beats[-1].sweep > since.sweep,
                timeout=300)
            self.assertGreater(pair.console.beats[-1].generation,
                               since.generation)

    def test_damage_is_found_on_both_ways(self):
        with VmPair(QEMU, workload=SMALL) as pair:
            self.migrate(pair)
            where = (20 << 20) + 123
            byte = os.pread(pair.there.ram_fd, 1, where)[0]
            os.pwrite(pair.there.ram_fd, bytes([byte ^ 1]), where)
            with self.assertRaisesRegex(VmError, "1 of .* differ.*0x1400000"):
                pair.verify()
            pair.there.cont()
            with self.assertRaisesRegex(GuestError, "0x00001400"):
                pair.guest_verify()

    def test_running_sides_are_not_compared(self):
        with VmPair(QEMU, workload=SMALL) as pair:
            self.migrate(pair)
            pair.resume_destination()
            with self.assertRaisesRegex(VmError, "only while both are"):
                pair.verify()

    def test_failure_shows_the_reason(self):
        with VmPair(QEMU, workload=SMALL) as pair:
            pair.start_source()
            pair.console.wait_ready()
            pair.source.stop()
            pair.start_destination("defer")
            with self.assertRaises(MigrationError) as caught:
                pair.migrate(f"tcp:127.0.0.1:{free_port('127.0.0.1')}")
            self.assertEqual(caught.exception.status, "failed")
            self.assertIn("source said", str(caught.exception))
            self.assertEqual(pair.source.status(), "paused")

    def test_a_qemu_that_does_not_start(self):
        with VmPair(QEMU, workload=SMALL, extra=["-nonsense"]) as pair:
            with self.assertRaisesRegex(VmError, "-nonsense"):
                pair.start_source()

    def test_nothing_outlives_a_killed_driver(self):
        program = (
            "import sys, time; sys.path.insert(0, sys.argv[1]);"
            "from vmpair import VmPair; from guest import Workload;"
            "pair = VmPair(sys.argv[2], workload=Workload(96, 32, 4));"
            "pair.start_source(); print(pair.source.pid, flush=True);"
            "time.sleep(60)")
        with tempfile.TemporaryDirectory() as work:
            with subprocess.Popen(
                    [sys.executable, "-Bc", program, str(SCRIPTS / "lib"),
                     QEMU], stdout=subprocess.PIPE, text=True,
                    env=dict(os.environ, TMPDIR=work)) as driver:
                pid = int(driver.stdout.readline())
                driver.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 60
        while self.runs(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertFalse(self.runs(pid))

    @staticmethod
    def runs(pid):
        """An orphan that nobody reaps stays behind as a zombie."""
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return False
        return stat.rsplit(")", 1)[1].split()[0] != "Z"


if __name__ == "__main__":
    unittest.main()
