# SPDX-License-Identifier: GPL-2.0-or-later
"""The edits: where they go, and that a place that does not fit is named."""
import unittest

import common  # noqa: F401  pylint: disable=unused-import
from qemu_edits import EditError, apply_edit, parse_edits

SOURCE = """\
int one(void)
{
    check();
    return true;
}

int two(void)
{
    old(1);
    old(2);
    return true;
}
"""


def texts(name: str) -> list:
    return {"sources": ["'a.c',", "'b.c',"]}[name]


def edit(place: str, *more: str, lines: tuple = ("    ours();",)) -> str:
    """SOURCE after the edit that these lines describe."""
    text = "\n".join(["edit: sample", "part: core", "file: f.c", place, *more,
                      *("+" + line for line in lines)])
    return apply_edit(parse_edits(text, "t")[0], SOURCE, texts)


class Places(unittest.TestCase):
    def test_before(self):
        self.assertIn("{\n    ours();\n    check();\n",
                      edit("before: check"))

    def test_after(self):
        self.assertIn("    check();\n    ours();\n    return",
                      edit("after: check"))

    def test_replace_one_line(self):
        self.assertEqual(edit("replace: check"),
                         SOURCE.replace("check", "ours"))

    def test_replace_until(self):
        self.assertIn("{\n    ours();\n    return true;",
                      edit(r"replace: old\(1", "until: return"))

    def test_delete_until(self):
        self.assertEqual(edit(r"delete: old\(1", "until: return", lines=()),
                         SOURCE.replace("    old(1);\n    old(2);\n", ""))

    def test_within_one_function(self):
        result = edit("before: return", "within: ^int two")
        self.assertIn("old(2);\n    ours();\n    return", result)
        self.assertEqual(result.count("ours"), 1)

    def test_within_one_qapi_comment_or_type(self):
        source = ("##\n# @One:\n# Since\n##\n{ 'One': 'x' }\n\n"
                  "##\n# @Two:\n# Since\n##\n{ 'Two': 'x' }\n\n##\n")
        for within, place in (("^# @One:", "# Since"), ("'One'", "'x'")):
            text = (f"edit: sample\npart: core\nfile: f.json\n"
                    f"within: {within}\nbefore: {place}\n+ours")
            result = apply_edit(parse_edits(text, "t")[0], source, texts)
            self.assertLess(result.index("ours"), result.index("@Two"))

    def test_placeholder_keeps_the_indentation(self):
        self.assertIn("{\n  'a.c',\n  'b.c',\n    check",
                      edit("before: check", lines=("  @sources@",)))


class Refusals(unittest.TestCase):
    def refused(self, pattern: str, *args, **kwargs) -> None:
        with self.assertRaisesRegex(EditError, pattern):
            edit(*args, **kwargs)

    def test_missing_place(self):
        self.refused("'sample' of f.c.*matches no line", "before: gone")

    def test_ambiguous_place(self):
        self.refused("'sample' of f.c.*ambiguous.*lines 4, 11",
                     "before: return")

    def test_place_in_another_function(self):
        self.refused("'sample'.*matches no line", "before: check",
                     "within: ^int two")

    def test_missing_function(self):
        self.refused("'sample'.*'within'.*no line", "before: check",
                     "within: ^int three")

    def test_missing_end(self):
        self.refused("'sample'.*'until' 'gone' matches no line",
                     "replace: check", "until: gone")

    def test_unknown_placeholder(self):
        self.refused("'sample'.*placeholder 'nothing'", "before: check",
                     lines=("@nothing@",))

    def test_two_places(self):
        self.refused("exactly one of", "before: check", "after: check")

    def test_unknown_key(self):
        self.refused("unknown key 'befor'", "before: check", "befor: x")

    def test_nothing_to_insert(self):
        self.refused("needs lines", "before: check", lines=())

    def test_broken_expression(self):
        self.refused("'sample': before", "before: (")

    def test_key_twice(self):
        self.refused("'before' given twice", "before: a", "before: b")

    def test_key_after_lines(self):
        with self.assertRaisesRegex(EditError, "t:5: expected"):
            parse_edits("edit: a\npart: core\nbefore: x\n+y\nfile: f\n", "t")


if __name__ == "__main__":
    unittest.main()
