# SPDX-License-Identifier: GPL-2.0-or-later
"""rdma-bench, the transport core without QEMU: run it, read its figures."""
import json
import os
import pathlib
import shlex
import subprocess
from typing import Any, Callable, Dict, List, Sequence

from bench_load import Load
from bench_run import Method, Setup, Skip, require_memory
from verbsim import VerbsimError

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAM = "tests/bench/rdma-bench"
# What comes next to the guests of bench_load.py
ROUNDS = ["--rounds", "4", "--dirty"]
LOADS = {
    "random": ["--fill", "random"],
    "idle": ["--fill", "untouched"],
    "half-zero": ["--fill", "half-zero"],
    "hot": ["--fill", "random", *ROUNDS, "hot:64M"],
    "hot-over": ["--fill", "random", *ROUNDS, "random:10%"],
    "device": ["--fill", "untouched"],
}


def find_program() -> str:
    """The newest that was built in this checkout."""
    found = [path for folder in ("build*", "build*/*")
             for path in REPO.glob(f"{folder}/{PROGRAM}")]
    if not found:
        raise VerbsimError(f"{PROGRAM} is not built: meson setup build && "
                           f"ninja -C build {PROGRAM}")
    return str(max(found, key=lambda path: path.stat().st_mtime))


def parse_runs(text: str) -> List[Dict[str, Any]]:
    """Objects one after the other, in a list, or under the key "runs"."""
    decoder = json.JSONDecoder()
    found: List[Dict[str, Any]] = []
    text = text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        text = text[end:].lstrip()
        if isinstance(value, dict) and isinstance(value.get("runs"), list):
            value = value["runs"]
        found += value if isinstance(value, list) else [value]
    return found


def arguments(method: Method, load: Load, setup: Setup, runs: int,
              more: str) -> List[str]:
    argv = ["--json", "-", "--name", f"{load.name}, {method.text}",
            "--ram", f"{load.guest.memory_mib}M", "--runs", str(runs),
            "--address", setup.host.strip("[]"), *LOADS[load.name]]
    if load.state_mib:
        argv += ["--stream", f"{load.state_mib}M"]
    if "rdma_pin_all" in method.capabilities:
        argv.append("--pin-all")
    if method.pin_limit:
        argv += ["--pin-limit", str(setup.pin_limit)]
    if setup.verify and setup.copies(method):
        argv.append("--verify")
    return argv + shlex.split(more)


def run_core(program: str, methods: Sequence[Method], load: Load,
             setup: Setup, runs: int, more: str,
             log: Callable[[str], None]) -> List[Dict[str, Any]]:
    """Its runs of a workload; "" is the program that was built here."""
    found: List[Dict[str, Any]] = []
    program = os.path.abspath(program or find_program())
    env = setup.fabric.env() if setup.fabric else None
    for method in methods:
        if method.scheme != "rdma":
            continue
        try:
            require_memory(method, load)
        except Skip as reason:
            log(f"rdma-bench, {method.text}: skipped: {reason}")
            continue
        argv = arguments(method, load, setup, runs, more)
        done = subprocess.run([program, *argv], env=env, check=False,
                              stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise VerbsimError(f"rdma-bench {' '.join(argv)} ended with "
                               f"status {done.returncode}")
        found += parse_runs(done.stdout)
    return found
