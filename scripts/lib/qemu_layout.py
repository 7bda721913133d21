# SPDX-License-Identifier: GPL-2.0-or-later
"""What of this repository goes into a QEMU tree, and how it is laid there.

A laid file has the same path here and there.  qemu/series names the parts of
the result: their folders, what of QEMU they drop, and the message each carries
when it is written out as a patch.

A tree that was laid once keeps QEMU's own version of every file that was
touched under .qemu-rdma/orig.  Each run begins at those, so laying twice
changes nothing, a changed edit takes effect, and a file that is gone from this
repository goes from the tree.  A file is written only when its content is new:
its time stamp is what decides what is compiled again.
"""
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
from typing import Dict, Iterator, List, Optional, Set

from qemu_edits import Edit, EditError, apply_edit, read_edits

STATE = ".qemu-rdma"
# QEMU numbers its development versions from .50 up: 10.0.50 is not a 10.0.
VERSION = re.compile(r"^10\.0\.([0-9]|[1-4][0-9])$")


class TreeError(Exception):
    """The tree or this repository is not what it must be."""


@dataclasses.dataclass
class Part:
    """One patch of the series."""
    name: str
    lay: List[str]
    drop: List[str]
    subject: str
    body: str


def read_series(path: pathlib.Path) -> List[Part]:
    """The parts in order: 'key: value' lines, then '+' lines of message."""
    parts: List[Part] = []
    for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        fields: Dict[str, str] = {}
        body: List[str] = []
        for line in paragraph.splitlines():
            if line.startswith("+"):
                body.append(line[1:])
            elif not line.startswith("#"):
                key, _, value = line.partition(":")
                fields[key] = value.strip()
        if not fields:
            continue
        try:
            part = Part(fields.pop("part"), fields.pop("lay", "").split(),
                        fields.pop("drop", "").split(),
                        fields.pop("subject"), "\n".join(body).strip())
        except KeyError as error:
            raise EditError(f"{path.name}: a part without {error}") from error
        if fields:
            raise EditError(f"{path.name}: part '{part.name}': unknown key "
                            f"'{next(iter(fields))}'")
        parts.append(part)
    return parts


class Repository:
    """Our side: parts, edits, and the files to lay."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.parts = read_series(root / "qemu" / "series")
        self.edits = read_edits(root / "qemu")
        names = [part.name for part in self.parts]
        for edit in self.edits:
            if edit.part not in names:
                raise edit.fail(f"qemu/series has no part '{edit.part}'")

    def files(self, part: Part) -> List[str]:
        """The files that the part lays, by their path here and there."""
        found: Set[str] = set()
        for pattern in part.lay:
            found.update(path.relative_to(self.root).as_posix()
                         for path in self.root.glob(pattern)
                         if path.is_file())
        return sorted(found)

    def sources(self, part_name: str) -> List[str]:
        """The lines of migration/meson.build for a part's C sources."""
        part = next(p for p in self.parts if p.name == part_name)
        prefix = "migration/"
        return [f"'{path[len(prefix):]}'," for path in self.files(part)
                if path.startswith(prefix) and path.endswith(".c")]

    def text(self, name: str) -> List[str]:
        """The lines that stand for the placeholder @name@ in an edit."""
        if name.endswith("-sources"):
            wanted = name[:-len("-sources")]
            if any(part.name == wanted for part in self.parts):
                return self.sources(wanted)
        if name == "trace-events":
            # The head of the file, up to its first blank line, is for us.
            text = (self.root / "qemu/trace-events").read_text("utf-8")
            return text.partition("\n\n")[2].rstrip("\n").splitlines()
        raise KeyError(name)

    def wants(self, edit: Edit) -> bool:
        return edit.when is None or (self.root / edit.when).exists()


class Tree:
    """A QEMU source tree, pristine or laid before."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.state = root / STATE
        self.record = self.state / "managed.json"
        self.managed: Set[str] = set()
        if self.record.exists():
            self.managed = set(json.loads(self.record.read_text("utf-8")))

    def original(self, path: str) -> Optional[bytes]:
        """QEMU's own version of a file, None if it has none."""
        place = (self.state / "orig" if path in self.managed
                 else self.root) / path
        return place.read_bytes() if place.is_file() else None

    def plan(self, repo: Repository,
             parts: List[Part]) -> Dict[str, Optional[bytes]]:
        """The wanted content of every touched file; None: it is removed."""
        wanted: Dict[str, Optional[bytes]] = {}
        dropped = {path for part in repo.parts for path in part.drop}
        for part in parts:
            for path in part.drop:
                if self.original(path) is None:
                    raise TreeError(f"part '{part.name}' drops {path}, which "
                                    "this QEMU does not have")
                wanted[path] = None
            for path in repo.files(part):
                if self.original(path) is not None and path not in dropped:
                    raise TreeError(
                        f"{path}: QEMU has a file of this name; rename ours, "
                        "or name it under 'drop' in qemu/series")
                wanted[path] = (repo.root / path).read_bytes()
        names = {part.name for part in parts}
        for edit in repo.edits:
            if edit.part not in names or not repo.wants(edit):
                continue
            before = (wanted[edit.file] if edit.file in wanted
                      else self.original(edit.file))
            if before is None:
                raise edit.fail("there is no such file in this QEMU, or it "
                                "is dropped")
            wanted[edit.file] = apply_edit(edit, before.decode("utf-8"),
                                           repo.text).encode("utf-8")
        return wanted

    def lay(self, wanted: Dict[str, Optional[bytes]]) -> List[str]:
        """Make the tree so; the paths that changed."""
        changed: List[str] = []
        for path in sorted(set(wanted) | self.managed):
            ours = path in wanted
            content = wanted[path] if ours else self.original(path)
            if ours:
                self._keep(path)
            if self._write(path, content):
                changed.append(path)
        # Kept originals of files that are QEMU's again would go stale.
        for path in self.managed - set(wanted):
            (self.state / "orig" / path).unlink(missing_ok=True)
        self._remember(set(wanted))
        return changed

    def _keep(self, path: str) -> None:
        """Put QEMU's version aside before the first change to it."""
        if path in self.managed:
            return
        if (self.root / path).is_file():
            place = self.state / "orig" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.root / path, place)
        self._remember(self.managed | {path})

    def _remember(self, managed: Set[str]) -> None:
        self.managed = managed
        self.state.mkdir(exist_ok=True)
        draft = self.record.with_suffix(".new")
        draft.write_text(json.dumps(sorted(managed), indent=0), "utf-8")
        draft.replace(self.record)

    def _write(self, path: str, content: Optional[bytes]) -> bool:
        place = self.root / path
        old = place.read_bytes() if place.is_file() else None
        if old == content:
            return False
        if content is None:
            place.unlink()
            return True
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return True


def check_version(source: pathlib.Path) -> str:
    """The version of a QEMU source tree, which must be a 10.0 release."""
    try:
        version = (source / "VERSION").read_text("utf-8").strip()
    except OSError as error:
        raise TreeError(f"{source} is no QEMU source tree: it has no file "
                        "VERSION") from error
    if not VERSION.match(version):
        raise TreeError(f"{source} is QEMU {version}; this transport is "
                        "written for 10.0.x")
    if (source / STATE).exists():
        raise TreeError(f"{source} already carries this transport; name a "
                        "pristine tree")
    return version


def _source_files(source: pathlib.Path) -> Iterator[str]:
    """The files that make up a source tree, without anybody's build in it."""
    if (source / ".git").exists():
        listing = subprocess.run(
            ["git", "-C", str(source), "ls-files", "-z",
             "--recurse-submodules"], check=True, stdout=subprocess.PIPE)
        listed = set(listing.stdout.decode().split("\0")) - {""}
        # meson's own downloads are no part of git, but of the build.
        listed.update(path.relative_to(source).as_posix()
                      for path in (source / "subprojects").rglob("*")
                      if (path.is_symlink() or path.is_file())
                      and ".git" not in path.parts)
        yield from sorted(listed)
        return
    for folder, folders, names in os.walk(source):
        # Links to folders are kept as links, as links to files are.
        names += [name for name in folders
                  if os.path.islink(os.path.join(folder, name))]
        folders[:] = [name for name in folders if name != ".pc" and not
                      os.path.exists(os.path.join(folder, name,
                                                  "build.ninja"))]
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), source)


def _same(one: pathlib.Path, other: pathlib.Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return (one.is_symlink() and other.is_symlink()
                and os.readlink(one) == os.readlink(other))
    if not other.is_file():
        return False
    a, b = one.stat(), other.stat()
    return (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)


def copy_source(source: pathlib.Path, target: pathlib.Path) -> int:
    """Bring the target up to date with a pristine tree; files copied.

    Files are compared by size and time, as rsync would.  Those that were laid
    or edited in the target are compared with, and copied to, their originals.
    """
    tree = Tree(target)
    stale = set(_source_files(target)) if target.exists() else set()
    stale = {path for path in stale if not path.startswith(STATE + "/")}
    # From the start: a copy that was broken off is known as ours.
    tree.state.mkdir(parents=True, exist_ok=True)
    copied = 0
    for path in _source_files(source):
        stale.discard(path)
        if not os.path.lexists(source / path):
            continue
        place = (tree.state / "orig" if path in tree.managed
                 else target) / path
        if _same(source / path, place):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(place):
            place.unlink()
        shutil.copy2(source / path, place, follow_symlinks=False)
        copied += 1
    for path in stale - tree.managed:
        (target / path).unlink()
    return copied
