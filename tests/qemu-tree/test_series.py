# SPDX-License-Identifier: GPL-2.0-or-later
"""Our edits on a real QEMU tree, and the exported series applied by git am.

QEMU_SRC names a pristine tree; else the one that ./configure keeps is used.
"""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import common
from qemu_layout import Repository, Tree
from qemu_series import clean_environment, export

CACHE = os.environ.get("RMIG_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
    "qemu-rdma-migration")
SOURCE = pathlib.Path(os.environ.get("QEMU_SRC")
                      or os.path.join(CACHE, "qemu-src", "debian"))


def differing(one: dict, other: dict) -> list:
    """The paths that only one has, or that differ by a byte."""
    return sorted(path for path in set(one) | set(other)
                  if one.get(path) != other.get(path))


@unittest.skipUnless((SOURCE / "VERSION").exists(),
                     "no QEMU source tree; get one: scripts/fetch-qemu")
class Series(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="qemu-series-test-")
        self.addCleanup(folder.cleanup)
        self.top = pathlib.Path(folder.name)
        self.ours = self.top / "ours"
        # A copy: somebody may be editing the checkout.
        for name in ("qemu", "migration", "include", "docs", "tests/qtest"):
            if (common.REPO / name).exists():
                shutil.copytree(common.REPO / name, self.ours / name)
        self.repo = Repository(self.ours)

    def git(self, *args: str) -> str:
        done = subprocess.run(["git", *args], cwd=self.top / "git",
                              env=clean_environment(), check=False,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def copy(self) -> pathlib.Path:
        """The source, without the bulk of firmware that no build reads."""
        def ignored(folder: str, names: list) -> list:
            top = pathlib.Path(folder) == SOURCE
            return [n for n in names if top and n in (".git", ".pc", "roms")]

        target = self.top / "git"
        shutil.copytree(SOURCE, target, symlinks=True, ignore=ignored)
        return target

    def test_git_am_gives_the_laid_tree(self):
        root = self.copy()
        pristine = common.snapshot(root)
        tree = Tree(root)
        self.assertTrue(tree.lay(tree.plan(self.repo, self.repo.parts)))
        tree = Tree(root)
        self.assertEqual(tree.lay(tree.plan(self.repo, self.repo.parts)), [])
        laid = common.snapshot(root, skip=(".qemu-rdma",))
        self.check_result(root)

        tree.lay({})
        shutil.rmtree(tree.state)
        self.assertEqual(differing(pristine, common.snapshot(root)), [])

        patches = export(self.repo, SOURCE, self.top / "patches")
        self.assertGreaterEqual(len(patches), 3)
        self.git("init", "-q", "-b", "pristine")
        self.git("config", "core.compression", "0")
        self.git("add", "-A", "-f")
        self.git("commit", "-q", "-m", "pristine")
        self.git("am", "-q", *map(str, patches))
        self.assertEqual(self.git("status", "--short"), "")
        result = common.snapshot(root, skip=(".git",))
        self.assertEqual(differing(laid, result), [])

    def check_result(self, laid: pathlib.Path) -> None:
        """What the edits are for, in the files they changed."""
        def text(path: str) -> str:
            return (laid / path).read_text(encoding="utf-8")

        build = text("migration/meson.build")
        for source in self.ours.glob("migration/**/*.c"):
            name = source.relative_to(self.ours / "migration").as_posix()
            self.assertEqual(build.count(f"'{name}'"), 1, name)
        self.assertNotIn("qemu_rdma_", text("migration/trace-events"))
        self.assertIn('"x-rdma:"', text("migration/migration.c"))
        self.assertNotIn("RDMA and", text("migration/migration.c"))
        for name in ("rdma_caps_compatible(", "rdma_caps_check("):
            calls = text("migration/migration.c") + text("migration/options.c")
            self.assertEqual(calls.count(name), 1, name)


if __name__ == "__main__":
    unittest.main()
