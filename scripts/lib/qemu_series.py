# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the laid tree out as a patch series against the pristine one.

Only the touched files are put under git, in a repository that is thrown away,
so it takes a second; the patches are those that the whole tree would give.
"""
import os
import pathlib
import subprocess
import tempfile
from typing import List, Optional

from qemu_layout import Part, Repository, Tree, TreeError

AUTHOR = "QEMU RDMA migration"
EMAIL = "nobody@invalid"


def clean_environment(date: Optional[str] = None) -> dict:
    """An environment in which no one's own git settings count."""
    env = {key: value for key, value in os.environ.items()
           if not key.startswith("GIT_")}
    env.update(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null",
               GIT_AUTHOR_NAME=AUTHOR, GIT_AUTHOR_EMAIL=EMAIL,
               GIT_COMMITTER_NAME=AUTHOR, GIT_COMMITTER_EMAIL=EMAIL)
    if date:
        env.update(GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)
    return env


def _date_of(repo: pathlib.Path) -> Optional[str]:
    """The date of our last commit, so that the series is reproducible."""
    done = subprocess.run(["git", "-C", str(repo), "log", "-1", "--format=%cI"],
                          check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip() or None


def _message(part: Part) -> str:
    return part.subject + "\n\n" + part.body + "\n"


def export(repo: Repository, source: pathlib.Path,
           target: pathlib.Path) -> List[pathlib.Path]:
    """Write the series to the (new or empty) folder; its patches in order."""
    if target.exists() and any(target.iterdir()):
        raise TreeError(f"{target} is not empty; name a new folder")
    pristine = Tree(source)
    env = clean_environment(_date_of(repo.root))
    with tempfile.TemporaryDirectory(prefix="qemu-series-") as scratch:
        work = pathlib.Path(scratch)

        def git(*args: str) -> None:
            try:
                subprocess.run(["git", *args], cwd=work, env=env, check=True,
                               stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
            except subprocess.CalledProcessError as error:
                raise TreeError(f"git {args[0]} failed:\n"
                                + error.stdout) from error

        for path in pristine.plan(repo, repo.parts):
            content = pristine.original(path)
            if content is not None:
                (work / path).parent.mkdir(parents=True, exist_ok=True)
                (work / path).write_bytes(content)
        git("init", "-q", "-b", "pristine")
        git("add", "-A")
        git("commit", "-q", "--allow-empty", "-m", "pristine")
        git("tag", "base")
        for count, part in enumerate(repo.parts, 1):
            if not Tree(work).lay(pristine.plan(repo, repo.parts[:count])):
                continue
            git("add", "-A", "--", ".", ":!.qemu-rdma")
            git("commit", "-q", "-m", _message(part))
        git("format-patch", "-q", "--no-signature", "--zero-commit",
            "--full-index", "--no-renames", "-o", str(target.resolve()),
            "base")
    return sorted(target.glob("*.patch"))
