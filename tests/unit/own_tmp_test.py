# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of tests/in-own-tmp, which every test program runs under."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

WRAPPER = pathlib.Path(__file__).resolve().parents[1] / "in-own-tmp"


class OwnTmp(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def start(self, script):
        return subprocess.Popen(
            [WRAPPER, "sh", "-c", script], text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=dict(os.environ, TMPDIR=self.folder))

    def run_script(self, script):
        """Its exit status and what was said; nothing stays in any case."""
        process = self.start(script)
        _, said = process.communicate()
        self.assertEqual(os.listdir(self.folder), [])
        return process.returncode, said

    def test_nothing_left(self):
        self.assertEqual(self.run_script('touch "$TMPDIR/a"; rm "$TMPDIR/a"'),
                         (0, ""))

    def test_left(self):
        status, said = self.run_script('mkdir "$TMPDIR/a-name"')
        self.assertEqual(status, 1)
        self.assertIn("a-name", said)

    def test_status_is_the_programs(self):
        for status in (1, 77, 99):
            self.assertEqual(
                self.run_script(f'touch "$TMPDIR/a"; exit {status}'),
                (status, ""))

    def test_killed_program(self):
        status, _ = self.run_script('touch "$TMPDIR/a"; kill -KILL $$')
        self.assertEqual(status, 128 + signal.SIGKILL)

    def test_ended_from_outside(self):
        """As meson ends a test that takes too long."""
        process = self.start('touch "$TMPDIR/a"; echo there; sleep 600')
        self.assertEqual(process.stdout.readline(), "there\n")
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()
        self.assertEqual(process.returncode, 128 + signal.SIGTERM)
        self.assertEqual(os.listdir(self.folder), [])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
