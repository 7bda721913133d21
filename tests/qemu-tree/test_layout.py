# SPDX-License-Identifier: GPL-2.0-or-later
"""Laying a small repository into a small tree, again and again."""
import os
import pathlib
import subprocess
import tempfile
import unittest

import common
from qemu_layout import Repository, Tree, TreeError, check_version, copy_source

SERIES = """\
part: core
lay: migration/rdma/**/*.[ch]
subject: core

part: transport
lay: migration/*.[ch]
drop: migration/rdma.c
subject: transport
"""
EDITS = """\
edit: face
part: transport
file: migration/meson.build
replace: rdma
+files(
+  @core-sources@
+  @transport-sources@
+)

edit: tests
part: transport
when: tests/ours.c
file: migration/meson.build
after: exec
+tests
"""
OURS = {
    "qemu/series": SERIES,
    "qemu/a.edits": EDITS,
    "migration/rdma.c": "ours\n",
    "migration/rdma/wire.c": "wire\n",
    "migration/rdma/wire.h": "wire header\n",
}
QEMU = {
    "VERSION": "10.0.13\n",
    "migration/meson.build": "exec\nrdma\nzstd\n",
    "migration/rdma.c": "QEMU's\n",
    "migration/exec.c": "exec\n",
}


class LayoutTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.top = pathlib.Path(folder.name)
        self.ours, self.qemu = self.top / "ours", self.top / "qemu"
        self.tree = self.top / "tree"
        common.write(self.ours, OURS)
        common.write(self.qemu, QEMU)
        copy_source(self.qemu, self.tree)

    def lay(self) -> list:
        repo, tree = Repository(self.ours), Tree(self.tree)
        return tree.lay(tree.plan(repo, repo.parts))

    def content(self) -> dict:
        return common.snapshot(self.tree, skip=(".qemu-rdma",))

    def text(self, path: str) -> str:
        return (self.tree / path).read_text(encoding="utf-8")


class Apply(LayoutTest):
    def test_lays_files_and_edits(self):
        self.lay()
        self.assertEqual(self.text("migration/rdma.c"), "ours\n")
        self.assertEqual(self.text("migration/rdma/wire.h"), "wire header\n")
        self.assertEqual(self.text("migration/meson.build"),
                         "exec\nfiles(\n  'rdma/wire.c',\n  'rdma.c',\n)\n"
                         "zstd\n")

    def test_twice_changes_nothing(self):
        self.assertEqual(len(self.lay()), 4)
        before = {path: os.stat(self.tree / path).st_mtime_ns
                  for path in self.content()}
        content = self.content()
        self.assertEqual(self.lay(), [])
        self.assertEqual(self.content(), content)
        self.assertEqual(before, {path: os.stat(self.tree / path).st_mtime_ns
                                  for path in content})

    def test_writes_only_what_changed(self):
        self.lay()
        common.write(self.ours, {"migration/rdma/wire.c": "new\n"})
        self.assertEqual(self.lay(), ["migration/rdma/wire.c"])

    def test_a_new_source_is_built(self):
        self.lay()
        common.write(self.ours, {"migration/rdma/plan.c": "plan\n"})
        self.assertEqual(self.lay(), ["migration/meson.build",
                                      "migration/rdma/plan.c"])
        self.assertIn("  'rdma/plan.c',\n  'rdma/wire.c',",
                      self.text("migration/meson.build"))

    def test_a_removed_file_goes(self):
        self.lay()
        (self.ours / "migration/rdma/wire.h").unlink()
        self.assertEqual(self.lay(), ["migration/rdma/wire.h"])
        self.assertFalse((self.tree / "migration/rdma/wire.h").exists())

    def test_a_changed_edit_takes_effect(self):
        self.lay()
        common.write(self.ours, {"qemu/a.edits":
                                 EDITS.replace("replace: rdma",
                                               "after: rdma")})
        self.lay()
        self.assertTrue(self.text("migration/meson.build")
                        .startswith("exec\nrdma\nfiles("))

    def test_without_edits_the_tree_is_pristine_again(self):
        self.lay()
        common.write(self.ours, {"qemu/a.edits": "",
                                 "qemu/series": "part: core\nsubject: x\n"})
        self.lay()
        self.assertEqual(self.content(), common.snapshot(self.qemu))

    def test_a_dropped_file_is_gone_without_ours(self):
        (self.ours / "migration/rdma.c").unlink()
        self.lay()
        self.assertFalse((self.tree / "migration/rdma.c").exists())

    def test_an_edit_waits_for_its_file(self):
        self.lay()
        self.assertNotIn("tests", self.text("migration/meson.build"))
        common.write(self.ours, {"tests/ours.c": "x\n"})
        self.lay()
        self.assertIn("exec\ntests\n", self.text("migration/meson.build"))

    def test_a_file_of_qemu_is_not_overwritten_unasked(self):
        common.write(self.ours, {"migration/exec.c": "ours\n"})
        with self.assertRaisesRegex(TreeError, "migration/exec.c: QEMU has"):
            self.lay()

    def test_a_refused_edit_leaves_the_tree_alone(self):
        common.write(self.tree, {"migration/meson.build": "exec\n"})
        before = self.content()
        done = subprocess.run([str(common.TOOL), "--repo", str(self.ours),
                               "apply", str(self.tree)], check=False,
                              stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("edit 'face' of migration/meson.build", done.stderr)
        self.assertEqual(self.content(), before)


class Copy(LayoutTest):
    def test_refresh_keeps_what_is_laid(self):
        self.lay()
        laid = self.content()
        self.assertEqual(copy_source(self.qemu, self.tree), 0)
        self.assertEqual(self.content(), laid)

    def test_a_change_of_the_source_arrives_under_the_edits(self):
        self.lay()
        common.write(self.qemu, {"migration/meson.build": "first\nrdma\nexec"})
        self.assertEqual(copy_source(self.qemu, self.tree), 1)
        self.lay()
        self.assertTrue(self.text("migration/meson.build")
                        .startswith("first\nfiles("))

    def test_a_file_gone_from_the_source_goes(self):
        (self.qemu / "migration/exec.c").unlink()
        copy_source(self.qemu, self.tree)
        self.assertFalse((self.tree / "migration/exec.c").exists())

    def test_the_source_is_not_changed(self):
        before = common.snapshot(self.qemu)
        self.lay()
        copy_source(self.qemu, self.tree)
        self.assertEqual(common.snapshot(self.qemu), before)
        self.assertEqual(before, {k: v.encode() for k, v in QEMU.items()})

    def test_git_trees_give_what_git_tracks(self):
        env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
        for args in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *args], cwd=self.qemu, env=env, check=True)
        common.write(self.qemu, {"build/junk.o": "junk",
                                 "subprojects/fetched/x.c": "fetched"})
        copy_source(self.qemu, self.top / "copy")
        self.assertEqual(set(common.snapshot(self.top / "copy")),
                         set(QEMU) | {"subprojects/fetched/x.c"})

    def test_other_versions_are_refused(self):
        for version in ("9.2.4", "10.0.50", "10.1.0", "10.0", "junk"):
            common.write(self.qemu, {"VERSION": version + "\n"})
            with self.assertRaisesRegex(TreeError, "written for 10.0.x"):
                check_version(self.qemu)
        for version in ("10.0.0", "10.0.13", "10.0.49"):
            common.write(self.qemu, {"VERSION": version + "\n"})
            self.assertEqual(check_version(self.qemu), version)

    def test_no_qemu_at_all(self):
        with self.assertRaisesRegex(TreeError, "no QEMU source tree"):
            check_version(self.ours)

    def test_a_laid_tree_is_no_source(self):
        with self.assertRaisesRegex(TreeError, "already carries"):
            check_version(self.tree)


if __name__ == "__main__":
    unittest.main()
