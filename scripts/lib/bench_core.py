# SPDX-License-Identifier: GPL-2.0-or-later
"""rdma-bench, the transport core without QEMU: run it, read its figures."""
import json
import os
import pathlib
import shlex
import subprocess
from typing import Any, Dict, List, Optional

from verbsim import Fabric, VerbsimError

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAM = "tests/bench/rdma-bench"


def find_program() -> str:
    """The newest that was built in this checkout."""
    found = [*REPO.glob(f"build*/{PROGRAM}"), *REPO.glob(f"build*/*/{PROGRAM}")]
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


def run_core(program: str, arguments: str,
             fabric: Optional[Fabric]) -> List[Dict[str, Any]]:
    """Its runs; "" is the program that was built here."""
    program = os.path.abspath(program or find_program())
    done = subprocess.run([program, *shlex.split(arguments)],
                          stdout=subprocess.PIPE, text=True, check=False,
                          env=fabric.env() if fabric else None)
    if done.returncode:
        raise VerbsimError(f"{program} ended with status {done.returncode}")
    return parse_runs(done.stdout)
