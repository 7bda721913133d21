#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of scripts/bench: its tables, charts, guests and observers.

The last class measures two small migrations on verbsim with the QEMU in
$RMIG_TEST_QEMU, which must have RDMA; the others need no QEMU.
"""
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

sys.dont_write_bytecode = True
SCRIPTS = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS / "lib"))

import bench_chart  # noqa: E402
import bench_load  # noqa: E402
from bench_chart import NoMatplotlib, draw_chart  # noqa: E402
from bench_core import parse_runs  # noqa: E402
from bench_load import LOADS, MIB, PAGE_BYTES, make_load  # noqa: E402
from bench_report import (SPEED, baseline, cell, markdown,  # noqa: E402
                          summarise, write_docs)
from bench_run import METHODS  # noqa: E402
from bench_sample import Probe, Sampler  # noqa: E402
from guest import Workload  # noqa: E402
from ram import create_ram  # noqa: E402

QEMU = os.environ.get("RMIG_TEST_QEMU")
RAM_BYTES = 1 << 30
TOTAL, DOWNTIME = (figure for figure in SPEED
                   if figure.key in ("total_s", "downtime_s"))


def bench_module():
    loader = importlib.machinery.SourceFileLoader(
        "bench", str(SCRIPTS / "bench"))
    spec = importlib.util.spec_from_loader("bench", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def recorded_run(method, pair, total_s, pinned=256 * MIB):
    """As bench_run.run_once() returns it, ten looks long."""
    setup_s = 0.2
    steps = [setup_s + (total_s - setup_s) * step / 10
             for step in range(1, 11)]
    return {
        "workload": "random", "method": method, "pair": pair,
        "version": {"source": "10.0.13", "dest": "10.0.2"},
        "total_s": total_s, "setup_s": setup_s, "downtime_s": 0.0,
        "transferred": RAM_BYTES, "rounds": 3,
        "gbit_per_s": RAM_BYTES * 8 / (total_s - setup_s) / 1e9,
        "cpu_per_gib_source": 0.5, "migration_cpu_per_gib": 0.4,
        "cpu_per_gib_dest": 0.25, "rss_peak_source": 1 << 30,
        "rss_peak_dest": 1 << 30, "pinned_peak_source": pinned,
        "pinned_peak_dest": pinned,
        "info": {"ram": {"total": RAM_BYTES}},
        "timeline": {
            "migration": [{"t": at, "transferred": RAM_BYTES * n // 10,
                           "remaining": RAM_BYTES * (10 - n) // 10}
                          for n, at in enumerate(steps, 1)],
            "processes": [{"t": at, "pinned_source": pinned,
                           "pinned_dest": pinned} for at in steps]}}


def recorded(runs):
    return {"where": {"link": "verbsim, profile fast", "no_copy": False,
                      "runs": 3},
            "workloads": {"random": {"text": "1024 MiB, all random, idle"}},
            "runs": runs, "core": [], "failed": [],
            "skipped": [{"workload": "random", "method": "rdma-pin-limit",
                         "pair": "ours:ours", "reason": "no parameter"}]}


RECORD = recorded(
    [recorded_run("rdma", "ours:ours", total) for total in (1.2, 1.0, 1.1)]
    + [recorded_run("rdma", "stock:stock", total) for total in (2.0, 2.2, 2.4)]
    + [recorded_run("tcp", "ours:ours", 3.3, 0)])


class ReportTest(unittest.TestCase):
    def test_median_spread_and_ratio(self):
        lines = markdown(RECORD).splitlines()
        ours = next(line for line in lines
                    if line.startswith("| RDMA | ours | 1.10"))
        self.assertIn("| 1.10 (1.00–1.20) ×0.50 |", ours)

    def test_stock_is_beside_nothing(self):
        rows = [line for line in markdown(RECORD).splitlines()
                if line.startswith("| RDMA | stock |")]
        self.assertEqual(len(rows), 2)
        for row in rows:
            self.assertNotIn("×", row)

    def test_what_stock_lacks_is_beside_its_rdma(self):
        rows = summarise(RECORD, "random")
        stock = baseline(rows, "tcp")
        self.assertEqual(stock["total_s"], (2.2, 2.0, 2.4))
        self.assertIn("3.30 ×1.50", markdown(RECORD))

    def test_no_ratio_to_zero(self):
        self.assertEqual(cell((0.1, 0.1, 0.1), DOWNTIME, (0, 0, 0)), "100")
        self.assertEqual(cell((0.1, 0.1, 0.1), TOTAL, None), "0.10")
        self.assertEqual(cell(None, TOTAL, None), "–")

    def test_says_what_it_measured(self):
        text = markdown(RECORD)
        self.assertIn("Ours is QEMU 10.0.2, stock is QEMU 10.0.2", text)
        self.assertIn("skipped: random, RDMA, pin limit, ours: no parameter",
                      text)
        self.assertNotIn("--no-copy", text)
        where = dict(RECORD["where"], no_copy=True)
        self.assertIn("`--no-copy`", markdown(dict(RECORD, where=where)))

    def test_every_line_of_a_table_is_as_wide(self):
        tables = {}
        for line in markdown(RECORD).splitlines():
            if line.startswith("|"):
                tables.setdefault(line.count("|"), []).append(line)
        self.assertEqual(sorted(map(len, tables.values())), [5, 5])

    def test_core_of_any_shape(self):
        one, two = {"name": "a", "share": 0.5}, {"name": "b", "link": None}
        for text in (f"{json.dumps(one)}\n{json.dumps(two)}\n",
                     json.dumps([one, two]), json.dumps({"runs": [one, two]})):
            self.assertEqual(parse_runs(text), [one, two])
        text = markdown(dict(RECORD, core=[one, two]))
        self.assertIn("| core alone | setting | share of it |", text)
        self.assertIn("| a |  | 0.50 |", text)
        self.assertIn("| b |  | – |", text)

    def test_document(self):
        with tempfile.TemporaryDirectory() as work:
            path = pathlib.Path(work) / "benchmarks.md"
            path.write_text("top\n<!-- bench x -->\nold\n<!-- end x -->\n"
                            "end\n")
            write_docs(path, "x", "new \\1")
            self.assertEqual(path.read_text(), "top\n<!-- bench x -->\nnew \\1"
                             "\n<!-- end x -->\nend\n")
            with self.assertRaisesRegex(ValueError, "bench y"):
                write_docs(path, "y", "new")


class ChartTest(unittest.TestCase):
    def test_throughput_holds_what_was_transferred(self):
        run = recorded_run("rdma", "ours:ours", 2.2)
        times, rates = bench_chart.throughput(run)
        self.assertEqual((times[0], rates[0], rates[-1]), (0, 0, 0))
        self.assertEqual(times, sorted(times))
        wanted = RAM_BYTES * 8 / 2.0 / 1e9
        for rate in rates[2:-1]:
            self.assertAlmostEqual(rate, wanted, delta=0.01)

    def test_remaining_begins_with_all_and_ends_in_time(self):
        run = recorded_run("rdma", "ours:ours", 2.2)
        run["timeline"]["migration"][-1]["t"] = 9.9     # answered late
        times, left = bench_chart.remaining(run)
        self.assertEqual((times[0], left[0], left[1]), (0, 1, 1))
        self.assertEqual((times[-1], left[-1]), (2.2, 0))

    def test_a_median_run_is_drawn(self):
        runs = [recorded_run("rdma", "ours:ours", total)
                for total in (3.0, 1.0, 2.0)]
        self.assertEqual(bench_chart.median_run(runs)["total_s"], 2.0)

    def test_chart(self):
        with tempfile.TemporaryDirectory() as work:
            path = pathlib.Path(work) / "chart.svg"
            try:
                draw_chart(RECORD, "random", path)
            except NoMatplotlib as reason:
                self.skipTest(str(reason))
            text = " ".join(xml.etree.ElementTree.parse(path).getroot()
                            .itertext())
        for words in ("Throughput", "Gbit/s", "Pinned memory", "MiB",
                      "RAM still to send", "GiB", "seconds since",
                      "1024 MiB, all random, idle", "verbsim, profile fast",
                      "RDMA, ours: 1.10 s", "RDMA, stock: 2.20 s",
                      "TCP, ours: 3.30 s"):
            self.assertIn(words, text)


class LoadTest(unittest.TestCase):
    GUEST = Workload(64, 8, 4)          # ends at 28 MiB

    def filled(self, fill):
        """All pages of a guest that was filled."""
        fd = create_ram("rmig-test", self.GUEST.memory_mib * MIB)
        try:
            fill(fd, self.GUEST)
            data = os.pread(fd, self.GUEST.memory_mib * MIB, 0)
        finally:
            os.close(fd)
        return [data[at:at + PAGE_BYTES]
                for at in range(0, len(data), PAGE_BYTES)]

    def test_random(self):
        pages = self.filled(bench_load.fill_random)
        first, end = 28 * MIB // PAGE_BYTES, 62 * MIB // PAGE_BYTES
        zero = bytes(PAGE_BYTES)
        self.assertEqual(set(pages[:first] + pages[end:]), {zero})
        self.assertEqual(len(set(pages[first:end])), end - first)
        self.assertNotIn(zero, pages[first:end])

    def test_half_zero(self):
        pages = self.filled(bench_load.fill_half_zero)
        first, end = 28 * MIB // PAGE_BYTES, 62 * MIB // PAGE_BYTES
        middle = (first + end) // 2
        zero = bytes(PAGE_BYTES)
        self.assertEqual(set(pages[:first] + pages[end:]), {zero})
        data = [page != zero for page in pages]
        # Stretches of 1, 1, 2, 2, 4 and 4 MiB, and from the beginning again
        self.assertEqual(data[first:first + 256 * 8],
                         [False] * 256 + [True] * 256 + [False] * 512
                         + [True] * 512 + [False] * 512)
        self.assertEqual(data[middle:end],
                         [True, False] * ((end - middle) // 2))
        self.assertAlmostEqual(sum(data) / (end - first), 0.5, delta=0.1)

    def test_no_range_is_the_guests(self):
        ranges = bench_load._free_ranges(Workload(4096, 0, 32))
        self.assertEqual(list(ranges), [(48 * MIB, 3070 * MIB),
                                        (3072 * MIB, 4096 * MIB)])

    def test_every_workload_fits_its_guest(self):
        for name in LOADS:
            for lab in (False, True):
                load = make_load(name, lab=lab)
                self.assertEqual(load.name, name)
                load.guest.pack()
        load = make_load("hot-over", 128)
        self.assertGreater(load.guest.hot_mib * MIB, load.limit * 0.3)


class SampleTest(unittest.TestCase):
    BURN = ("import sys, threading, time\n"
            "def burn(seconds):\n"
            "    end = time.thread_time() + seconds\n"
            "    while time.thread_time() < end: pass\n"
            "print('ready', flush=True)\n"
            "sys.stdin.readline()\n"
            "burn(0.1)\n"
            "thread = threading.Thread(target=burn, args=(0.2,))\n"
            "thread.start(); thread.join()\n"
            "block = b'x' * (64 << 20)\n"
            "print('done', flush=True)\n"
            "sys.stdin.readline()\n")

    def test_what_threads_took_that_have_ended(self):
        with subprocess.Popen([sys.executable, "-c", self.BURN], text=True,
                              stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as child:
            self.assertEqual(child.stdout.readline(), "ready\n")
            probe = Probe(child.pid)
            sampler = Sampler({"source": probe}, 0.01)
            sampler.start()
            child.stdin.write("\n")
            child.stdin.flush()
            self.assertEqual(child.stdout.readline(), "done\n")
            sampler.end()
            cpu = probe.cpu()
            child.communicate("\n")
        # Processor time, but a busy machine makes it dearer.
        self.assertGreater(cpu["migration"], 0.15)
        self.assertLess(cpu["migration"], 0.6)
        self.assertGreater(cpu["qemu"], 0.25)
        self.assertLess(cpu["qemu"], 2)
        self.assertEqual((cpu["fabric"], cpu["guest"]), (0, 0))
        self.assertGreater(sampler.peak("rss", "source"), 64 * MIB)
        self.assertEqual(sampler.peak("pinned", "source"), 0)
        self.assertGreater(len(sampler.rows), 3)

    def test_one_that_has_gone(self):
        with subprocess.Popen(["sleep", "60"]) as child:
            probe = Probe(child.pid)
            child.kill()
        self.assertEqual(probe.sample(), {"rss": 0, "pinned": 0})


class OptionsTest(unittest.TestCase):
    def test_help_names_everything(self):
        text = bench_module().__doc__
        for name in [*METHODS, *LOADS]:
            self.assertIn(name, text)

    def test_plan(self):
        bench = bench_module()
        options = bench.parse(["--pairs", "ours:ours,stock:stock"])
        plan = [(method.name, pair) for method, pair in bench.plan_of(options)]
        self.assertIn(("rdma-pin-all", "stock:stock"), plan)
        self.assertIn(("tcp", "ours:ours"), plan)
        self.assertNotIn(("tcp", "stock:stock"), plan)
        self.assertNotIn(("rdma-pin-limit", "stock:stock"), plan)

    def test_quick_yields_to_what_is_given(self):
        options = bench_module().parse(["--quick", "--mem", "96"])
        self.assertEqual((options.mem, options.runs), (96, 1))


@unittest.skipUnless(QEMU, "set RMIG_TEST_QEMU to a QEMU with RDMA, such as "
                     "build-qemu/qemu-system-x86_64")
class MeasureTest(unittest.TestCase):
    def test_two_migrations(self):
        with tempfile.TemporaryDirectory() as work:
            path = pathlib.Path(work) / "record.json"
            done = subprocess.run(
                [sys.executable, str(SCRIPTS / "bench"), "--qemu", QEMU,
                 "--workload", "half-zero", "--mem", "96", "--runs", "1",
                 "--methods", "rdma,tcp", "--pairs", "ours:ours",
                 "--json", str(path)], stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, timeout=600, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            rdma, tcp = json.loads(path.read_text())["runs"]
        self.assertIn("| RDMA | ours |", done.stdout)
        self.assertEqual((rdma["method"], tcp["method"]), ("rdma", "tcp"))
        for run in rdma, tcp:
            self.assertTrue(run["verified"])
            self.assertGreater(run["normal_pages"], 30 * 256)
            self.assertGreater(run["cpu_per_gib_source"], 0)
            self.assertGreater(run["cpu_per_gib_dest"], 0)
            self.assertTrue(run["timeline"]["processes"])
        self.assertGreater(rdma["pinned_peak_source"], MIB)
        self.assertGreater(rdma["pinned_peak_dest"], MIB)
        self.assertGreater(rdma["fabric"]["source"]["tx_write_bytes"],
                           30 * MIB)
        self.assertEqual(tcp["pinned_peak_source"], 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
