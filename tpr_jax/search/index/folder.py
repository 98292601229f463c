"""The photos of a folder and its subfolders: what is left out or skipped, and one name a photo."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tpr_jax.data.images.formats import SUFFIXES, UNREADABLE, suffix_of, why_unreadable
from tpr_jax.errors import UserError

# Folders in which systems and network disks keep thumbnails and what was deleted, in lower case. They are not
# counted as photos, and not walked: snapshots hold all of a disk many times over.
# fmt: off
_SYSTEM_FOLDERS = frozenset((
    "@eadir", "@recently-snapshot", "@recycle", "@sharebin", "@thumb", "@__thumb", "@tmp", "#recycle",
    "#snapshot", "$recycle.bin", "__macosx", "found.000", "lost+found", "network trash folder", "recycled",
    "recycler", "system volume information", "temporary items", "thevolumesettingsfolder", "thumbnails",
    "thumbs", "trash", "trashbox", "~snapshot",
))
# fmt: on


def walk(
    root: Path, leave_out: Path | None = None, exclude: Sequence[str] = ()
) -> tuple[list[str], list[tuple[str, str]], Counter]:
    """Finds the photos below a folder, by their suffixes.

    Links to folders are not followed, so that no loop of them is walked. `leave_out` is a folder that is not
    walked; `exclude` are patterns, see `excluded`.

    Returns the photos' paths from the root, with '/', sorted; (path, why) of pictures and videos that cannot
    be read, of folders that cannot, and of second names of one photo; and how many folders and files of each
    name were left out: hidden ones, the systems' own, links to folders, and those that a pattern names.

    Raises:
      UserError: the folder itself cannot be read.
    """
    paths, skipped, left_out = [], [], Counter()

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == root:
            raise UserError(f"{root}: cannot be read ({error.strerror}); check the folder's permissions")
        name = os.path.relpath(error.filename, root)
        skipped.append((printable(name), f"the folder cannot be read ({error.strerror})"))

    for folder, folders, files in os.walk(root, onerror=unreadable):
        place = Path(os.path.relpath(folder, root))
        walked = []
        for name in folders:
            if leave_out is not None and Path(folder, name) == leave_out:
                continue
            if why := _folder_left_out(place / name, os.path.join(folder, name), exclude):
                left_out[why] += 1
            else:
                walked.append(name)
        folders[:] = walked
        for name in files:
            suffix, path = suffix_of(name), (place / name).as_posix()
            if suffix not in SUFFIXES and suffix not in UNREADABLE:
                continue
            if name.startswith("."):
                left_out["._*" if name.startswith("._") else ".*"] += 1
            elif pattern := excluded(path, exclude):
                left_out[pattern] += 1
            elif path != printable(path):
                skipped.append((printable(path), "its name is not UTF-8: rename it"))
            elif suffix in UNREADABLE:
                skipped.append((path, why_unreadable(name)))
            else:
                paths.append(path)
    paths, twice = distinct(sorted(paths))
    return paths, sorted([*skipped, *twice]), left_out


def _folder_left_out(path: Path, place: str, exclude: Sequence[str]) -> str:
    """Under which name a folder is left out; '' where it is walked."""
    name = path.name
    if os.path.islink(place):
        return "links to folders"
    if name.startswith(".") or name.lower() in _SYSTEM_FOLDERS:
        return f"{printable(name)}/"
    return excluded(f"{path.as_posix()}/", exclude)


def excluded(path: str, patterns: Sequence[str]) -> str:
    """The first pattern that a path from the root, or one of the folders it is in, matches; '' for none.

    As in .gitignore, a pattern without '/' is for names, one with it for paths from the root, and one that
    ends in '/' for folders; `*`, `?` and `[...]` match any characters.
    """
    parts = path.split("/")
    for pattern in patterns:
        wanted = unicodedata.normalize("NFC", pattern).strip("/")
        for count in range(1, len(parts) + 1):
            if pattern.endswith("/") and count == len(parts):
                continue
            place = "/".join(parts[:count]) if "/" in wanted else parts[count - 1]
            if fnmatchcase(unicodedata.normalize("NFC", place), wanted):
                return pattern
    return ""


def one_name(path: str) -> str:
    """A path with composed letters (NFC): macOS and some disks write 'é' as 'e' and an accent."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def distinct(paths: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Paths without those that name an earlier one's photo in other code points, and (path, why) of those."""
    first, kept, twice = {}, [], []
    for path in paths:
        earlier = first.setdefault(one_name(path), path)
        if earlier == path:
            kept.append(path)
        else:
            twice.append(
                (path, "has the name of another photo, but for how its accents are written: rename it")
            )
    return kept, twice


def on_disk(root: Path, path: str) -> str:
    """A path as its file is called on the disk, where only the form of its accents differs; else as it is."""
    if path.isascii() or os.path.lexists(root / path):
        return path
    place = Path(Path(path).anchor) if Path(path).is_absolute() else root
    found = []
    for part in Path(path).relative_to(Path(path).anchor).parts:
        if not os.path.lexists(place / part):
            try:
                names = os.listdir(place)
            except OSError:
                return path
            part = next((name for name in names if one_name(name) == one_name(part)), None)
            if part is None:
                return path
        place = place / part
        found.append(part)
    return Path(Path(path).anchor, *found).as_posix()


def printable(name: str) -> str:
    """A file's name with the bytes that are not UTF-8 spelled out, so that it can be printed and stored."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
