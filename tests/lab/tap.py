# SPDX-License-Identifier: GPL-2.0-or-later
"""Test programs in C that speak TAP: building them, running them, reading them.

For core-tests and conformance. Programs are built on this machine, in
build-check, and run where a device is; the lab cannot build.
"""

import os
import re
import shutil
import subprocess

from labtest import REPO, LabError

BUILDS = {
    "plain": [],
    "sanitize": ["-Db_sanitize=address,undefined", "-Db_lundef=false"],
}
PROGRAM_SECONDS = 600       # only one that hangs takes longer
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "MALLOC_PERTURB_": "165",
    "RMIG_VERBSIM": str(REPO / "scripts" / "verbsim"),
}
NOISE = re.compile(r"# (Start of|End of|random seed|GLib-)")
RESULT = re.compile(r"(ok|not ok) (?:\d+ )?(\S+)(?: # SKIP ?(.*)| (.*))?")


def directory(build):
    return REPO / "build-check" / build


def run_quietly(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(map(str, argv))} failed:\n{done.stdout}")


def build_programs(build, programs):
    """Build these files of directory(@build)."""
    if not shutil.which("meson") or not shutil.which("ninja"):
        raise LabError("meson and ninja are needed to build the tests: "
                       "apt-get install meson ninja-build")
    where = directory(build)
    if not (where / "build.ninja").is_file():
        run_quietly("meson", "setup", where, REPO, *BUILDS[build])
    targets = [str(program.relative_to(where)) for program in programs]
    run_quietly("ninja", "-C", where, *targets)


def in_lab(name, seconds, options):
    """Run tests/lab/@name once more in the lab; its exit status."""
    command = [REPO / "scripts" / "lab", "--timeout", str(seconds),
               REPO / "tests" / "lab" / name, "--no-build",
               *(f"--only={text}" for text in options.only)]
    return subprocess.run(command, check=False).returncode


def run_program(label, program, *cases):
    """All or some of its cases: verdicts (ok, FAIL or skip; case; text)."""
    command = [str(program), "--tap"]
    for case in cases:
        command += ["-p", case]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, check=False, timeout=PROGRAM_SECONDS,
                              env={**os.environ, **ENVIRONMENT})
    except subprocess.TimeoutExpired:
        return [("FAIL", f"{label}/{program.name}",
                 f"still running after {PROGRAM_SECONDS} s")]
    verdicts = list(read_tap(label, done.stdout))
    if done.returncode and not any(v[0] == "FAIL" for v in verdicts):
        words = done.stdout.splitlines()[-3:] + done.stderr.splitlines()
        verdicts.append(("FAIL", f"{label}/{program.name}", "\n".join(
            [f"exit status {done.returncode}", *words[:40]])))
    return verdicts


def read_tap(label, text):
    notes = {}                  # as a set, but in order
    for line in text.splitlines():
        found = RESULT.match(line)
        if found:
            verdict, path, reason, words = found.groups()
            if reason is not None:
                yield "skip", label + path, reason
            elif verdict == "ok":
                yield "ok", label + path, "; ".join(notes)
            else:
                yield "FAIL", label + path, words or "; ".join(notes)
            notes = {}
        elif line.startswith("# ") and not NOISE.match(line):
            notes[line[2:]] = None


def cases(program):
    done = subprocess.run([program, "-l"], text=True, check=True,
                          stdout=subprocess.PIPE)
    return [line for line in done.stdout.splitlines() if line.startswith("/")]


def run_wanted(report, label, program):
    """Those of its cases that @report wants, into @report."""
    wanted = [case for case in cases(program) if report.wants(label + case)]
    if wanted:
        for verdict in run_program(label, program,
                                   *(wanted if report.only else ())):
            report.line(*verdict)
