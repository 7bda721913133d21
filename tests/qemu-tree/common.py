# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of scripts/qemu-tree share."""
import os
import pathlib
import sys

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
TOOL = REPO / "scripts" / "qemu-tree"
sys.path.insert(0, str(REPO / "scripts" / "lib"))


def write(root: pathlib.Path, files: dict) -> None:
    """Files by their path below @root."""
    for path, text in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


def snapshot(root: pathlib.Path, skip: tuple = ()) -> dict:
    """Content (of a link: its target) of every file below @root."""
    found = {}
    for folder, folders, names in os.walk(root):
        links = [n for n in folders if os.path.islink(f"{folder}/{n}")]
        if pathlib.Path(folder) == root:
            folders[:] = [n for n in folders if n not in skip]
        for name in names + links:
            place = pathlib.Path(folder) / name
            found[place.relative_to(root).as_posix()] = (
                os.readlink(place) if place.is_symlink()
                else place.read_bytes())
    return found
