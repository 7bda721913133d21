# SPDX-License-Identifier: GPL-2.0-or-later
"""The declarative edits that fit QEMU's files to this transport.

qemu/README.md describes the format for its writers.  An edit names a file, a
place in it (an anchor: a regular expression that must match exactly one line)
and the lines that we insert there.  It never quotes what it replaces, so it
holds across the 10.0.x releases, and it stops with its own name when the place
is gone or is no longer the only one.
"""
import dataclasses
import pathlib
import re
from typing import Callable, Dict, List, Optional, Tuple

PLACES = ("before", "after", "replace", "delete")
KEYS = {"edit", "part", "file", "within", "until", "when", *PLACES}
# Of a C function; of a QAPI comment, or a QAPI type up to the next comment.
REGION_END = re.compile(r"^(\}|##$)")
PLACEHOLDER = re.compile(r"^(\s*)@([a-z-]+)@$")


class EditError(Exception):
    """An edit that is malformed or does not fit; the text names it."""


@dataclasses.dataclass
class Edit:
    """One edit; the regular expressions are kept as written."""
    name: str
    part: str
    file: str
    place: str
    anchor: str
    within: Optional[str] = None
    until: Optional[str] = None
    when: Optional[str] = None
    lines: List[str] = dataclasses.field(default_factory=list)

    def fail(self, why: str) -> EditError:
        return EditError(f"edit '{self.name}' of {self.file}: {why}")


def _make(fields: Dict[str, str], lines: List[str], where: str) -> Edit:
    name = fields.get("edit")
    if not name:
        raise EditError(f"{where}: a paragraph without 'edit: NAME'")
    where = f"{where}: edit '{name}'"
    unknown = sorted(set(fields) - KEYS)
    if unknown:
        raise EditError(f"{where}: unknown key '{unknown[0]}'")
    places = [place for place in PLACES if place in fields]
    if len(places) != 1:
        raise EditError(f"{where}: needs exactly one of {', '.join(PLACES)}")
    for key in ("part", "file"):
        if key not in fields:
            raise EditError(f"{where}: needs '{key}'")
    place = places[0]
    if place == "delete" and lines:
        raise EditError(f"{where}: 'delete' takes no lines; use 'replace'")
    if place != "delete" and not lines:
        raise EditError(f"{where}: '{place}' needs lines to insert")
    if "until" in fields and place not in ("replace", "delete"):
        raise EditError(f"{where}: 'until' goes with replace and delete")
    for key in (place, "within", "until"):
        try:
            re.compile(fields.get(key, ""))
        except re.error as error:
            raise EditError(f"{where}: {key}: {error}") from error
    return Edit(name, fields["part"], fields["file"], place, fields[place],
                fields.get("within"), fields.get("until"),
                fields.get("when"), lines)


def parse_edits(text: str, where: str) -> List[Edit]:
    """The edits of one file: paragraphs of 'key: value' and '+' lines."""
    edits: List[Edit] = []
    fields: Dict[str, str] = {}
    lines: List[str] = []
    for number, line in enumerate(text.splitlines() + [""], 1):
        if line.startswith("+"):
            lines.append(line[1:])
        elif line.startswith("#"):
            continue
        elif line.strip():
            key, colon, value = line.partition(":")
            if not colon or lines:
                raise EditError(f"{where}:{number}: expected 'key: value' "
                                "before the '+' lines")
            if key in fields:
                raise EditError(f"{where}:{number}: '{key}' given twice")
            fields[key] = value.strip()
        elif fields or lines:
            edits.append(_make(fields, lines, where))
            fields, lines = {}, []
    return edits


def read_edits(folder: pathlib.Path) -> List[Edit]:
    """All edits of a folder, in the order of file names and paragraphs."""
    edits: List[Edit] = []
    for path in sorted(folder.glob("*.edits")):
        edits += parse_edits(path.read_text(encoding="utf-8"), path.name)
    seen: Dict[str, Edit] = {}
    for edit in edits:
        if edit.name in seen:
            raise EditError(f"two edits are called '{edit.name}'")
        seen[edit.name] = edit
    return edits


def _only_match(edit: Edit, what: str, pattern: str, lines: List[str],
                span: Tuple[int, int]) -> int:
    found = [i for i in range(*span) if re.search(pattern, lines[i])]
    if len(found) == 1:
        return found[0]
    if not found:
        raise edit.fail(f"its {what} '{pattern}' matches no line: this QEMU "
                        "differs from the one the edit was written for")
    raise edit.fail(f"its {what} '{pattern}' is ambiguous, it matches lines "
                    + ", ".join(str(i + 1) for i in found))


def _region(edit: Edit, lines: List[str]) -> Tuple[int, int]:
    """The lines an anchor is looked for in: the file, or a part of it."""
    if edit.within is None:
        return 0, len(lines)
    start = _only_match(edit, "'within'", edit.within, lines, (0, len(lines)))
    for i in range(start + 1, len(lines)):
        if REGION_END.match(lines[i]):
            return start, i + 1
    raise edit.fail(f"what begins at '{edit.within}' has no end")


def _expand(edit: Edit, texts: Callable[[str], List[str]]) -> List[str]:
    """Its lines, with a line that is only @name@ replaced by that text."""
    result: List[str] = []
    for line in edit.lines:
        holder = PLACEHOLDER.match(line)
        if holder is None:
            result.append(line)
            continue
        try:
            result += [holder[1] + text for text in texts(holder[2])]
        except KeyError as error:
            raise edit.fail(f"unknown placeholder {error}") from error
    return result


def apply_edit(edit: Edit, content: str,
               texts: Callable[[str], List[str]]) -> str:
    """The content after one edit.  @texts gives a placeholder's lines."""
    lines = content.split("\n")
    span = _region(edit, lines)
    first = _only_match(edit, f"'{edit.place}'", edit.anchor, lines, span)
    last = first + 1
    if edit.until is not None:
        while last < span[1] and not re.search(edit.until, lines[last]):
            last += 1
        if last == span[1]:
            raise edit.fail(f"its 'until' '{edit.until}' matches no line "
                            f"after line {first + 1}")
    if edit.place == "before":
        last = first
    elif edit.place == "after":
        first = last
    lines[first:last] = _expand(edit, texts)
    return "\n".join(lines)
