#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""rdma-bench on verbsim: the memory arrives, and its figures are there.

usage: bench_test.py RDMA-BENCH     (with verbsim in LD_LIBRARY_PATH)
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

MIB = 1 << 20
RAM = 64 * MIB
COUNTS = ("bytes", "cpu_s_source", "cpu_s_dest", "ns_per_page", "setup_s",
          "first_write_s", "close_s_source", "close_s_dest", "gbit_per_s",
          "revoke_to_closed_s")


class Bench(unittest.TestCase):
    program = ""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="rdma-bench-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.env = dict(os.environ, VERBSIM_DIR=self.folder,
                        VERBSIM_LEAKS="fail")
        for name in ("VERBSIM_PROFILE", "VERBSIM_COPY", "VERBSIM_FAULTS"):
            self.env.pop(name, None)

    def start(self, *options, **env):
        return subprocess.run(
            [self.program, "--ram", str(RAM), *options], check=False,
            env=dict(self.env, **env), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)

    def measure(self, *options, **env):
        """The runs, which went well."""
        done = self.start("--json", "-", *options, **env)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_memory(self):
        for fill in ("random", "half-zero", "zero:3%", "untouched"):
            for pin_all in ([], ["--pin-all"]):
                with self.subTest(fill=fill, pin_all=pin_all):
                    run, = self.measure(
                        "--fill", fill, *pin_all, "--blocks", "3", "--verify",
                        "--rounds", "2", "--dirty", "random:5%", "--slice",
                        "2", "--stream", "3M")
                    self.check(run, fill, bool(pin_all))

    def check(self, run, fill, pin_all):
        data = {"random": 1, "half-zero": 0.5, "zero:3%": 0.03,
                "untouched": 0}[fill] * RAM
        first, second, last = run["rounds"]

        self.assertTrue(run["verified"])
        self.assertEqual(run["pins_all"], pin_all)
        self.assertEqual(first["pages"], RAM // 4096)
        # Control messages come on top, and small holes of zeros are written
        holes = RAM / 4 if fill == "half-zero" else 0
        self.assertGreater(first["bytes"], data - 2 * MIB)
        self.assertLess(first["bytes"], data + holes + 2 * MIB)
        for dirty in (second, last):
            self.assertAlmostEqual(dirty["pages"] * 4096, RAM / 20,
                                   delta=MIB / 2)
            self.assertAlmostEqual(dirty["bytes"], RAM / 20, delta=MIB)
        self.assertLessEqual(sum(r["seconds"] for r in run["rounds"]),
                             run["seconds"])
        # What was never touched at the destination is not cleared either
        self.assertLessEqual(run["dest_zero_bytes"], 2 * RAM - data)
        self.assertGreater(run["stream_gbit_per_s"], 0)
        for key in COUNTS:
            self.assertGreater(run[key], 0, key)

    def test_profile(self):
        """The link is known, and nothing is faster."""
        runs = self.measure("--runs", "2", "--no-zero-check",
                            VERBSIM_PROFILE="fdr40", VERBSIM_COPY="none")
        self.assertEqual([run["run"] for run in runs], [0, 1])
        for run in runs:
            self.assertAlmostEqual(run["link_gbit_per_s"], 39.7)
            self.assertTrue(run["no_copy"])
            self.assertGreaterEqual(run["bytes"], RAM)
            self.assertGreater(run["bulk_share"], 0)
            self.assertLess(run["bulk_share"], 1.001)
            self.assertLess(run["share"], run["bulk_share"])

    def test_sparse(self):
        """Memory that this machine does not have."""
        timeline = os.path.join(self.folder, "timeline")
        run, = self.measure("--ram", "64G", "--sparse", "--fill",
                            "zero:0.004%", "--rounds", "1", "--dirty",
                            "hot:16M", "--timeline", timeline,
                            VERBSIM_COPY="none")
        self.assertEqual(run["ram_bytes"], 64 << 30)
        self.assertEqual(run["rounds"][1]["pages"], 4096)
        self.assertGreater(run["counters_source"]["write_bytes"], 17 * MIB)
        for side in ("source", "dest"):
            self.assertLess(run[f"rss_peak_{side}"], 256 * MIB)
        with open(timeline, encoding="ascii") as file:
            head, *rows = file.read().splitlines()
        self.assertEqual(rows[-1].split(",")[-1], "0")
        self.assertEqual(len(rows[-1].split(",")), len(head.split(",")))

    def test_refused(self):
        for options in (["--sparse"], ["--ram", "x"], ["--dirty", "hot"],
                        ["--fill", "zero:101%"], ["more"], ["--runs", "0"],
                        ["--address", "nowhere"]):
            with self.subTest(options=options):
                done = self.start(*options)
                self.assertEqual(done.returncode, 1)
                self.assertNotEqual(done.stderr, "")

    def test_nothing_to_verify(self):
        profile = os.path.join(self.folder, "copies-nothing.profile")
        with open(profile, "w", encoding="ascii") as file:
            file.write("copy = no\n")
        done = self.start("--verify", VERBSIM_PROFILE=profile)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no data moves", done.stderr)


if __name__ == "__main__":
    Bench.program = sys.argv.pop(1)
    unittest.main()
