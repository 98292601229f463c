"""Finds the photos of a folder and its subfolders, and handles Unicode forms of their names."""

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tpr_jax.data.image_paths import ImagePaths
from tpr_jax.data.images.formats import SUFFIXES, UNREADABLE, suffix_of, why_unreadable
from tpr_jax.errors import ArgumentError, UserError, shown

# Folders, in lower case, in which systems and network disks keep thumbnails, deleted files and snapshots.
# They are not walked: snapshots contain everything on a disk many times over.
# fmt: off
_SYSTEM_FOLDERS = frozenset((
    "@eadir", "@recently-snapshot", "@recycle", "@sharebin", "@thumb", "@__thumb", "@tmp", "#recycle",
    "#snapshot", "$recycle.bin", "__macosx", "found.000", "lost+found", "network trash folder", "recycled",
    "recycler", "system volume information", "temporary items", "thevolumesettingsfolder", "thumbnails",
    "thumbs", "trash", "trashbox", "~snapshot",
))
# fmt: on
_SYSTEM_FILES = frozenset(("desktop.ini", "ehthumbs.db", "thumbs.db"))


class Walk(NamedTuple):
    """The photos of a folder.

    Attributes:
      paths: paths of the photos relative to the root, with '/', sorted.
      skipped: (path, reason) of unreadable formats and folders, and of further names of the same photo.
      left_out: name -> number of folders and files left out: hidden ones, system folders, links to folders,
        those that match a pattern, and by ending files that are no images; 0 for a pattern that matched
        nothing.
    """

    paths: list[str]
    skipped: list[tuple[str, str]]
    left_out: Counter


def walk(
    root: Path,
    leave_out: Path | None = None,
    exclude: Sequence[str] = (),
    also: Collection[str] = (),
) -> Walk:
    """Finds the photos below a folder by their suffixes.

    Links to folders are not followed, so that a loop of links is harmless.

    Args:
      root: the folder.
      leave_out: a folder that is not walked.
      exclude: patterns, see `matching_pattern`.
      also: suffixes, in lower case, of further files to find, such as videos.

    Raises:
      UserError: the folder itself cannot be read, or a pattern is empty.
    """
    check_patterns(exclude)
    paths, skipped, left_out = [], [], Counter()
    unused, not_walked = list(exclude), set()

    def skip_unreadable(error: OSError) -> None:
        if Path(error.filename) == root:
            raise UserError(f"{root}: cannot be read ({error.strerror}); check the folder's permissions")
        name = os.path.relpath(error.filename, root)
        skipped.append((printable(name), f"the folder cannot be read ({error.strerror})"))

    for folder, folders, files in os.walk(root, onerror=skip_unreadable):
        relative = Path(os.path.relpath(folder, root))
        inside = itertools.chain((f"{name}/" for name in folders), files)
        unused = unmatched(unused, (f"{relative.as_posix()}/{name}".removeprefix("./") for name in inside))
        walked = []
        for name in folders:
            if leave_out is not None and Path(folder, name) == leave_out:
                continue
            if reason := _folder_left_out(relative / name, os.path.join(folder, name), exclude):
                left_out[reason] += 1
                not_walked.add((relative / name).as_posix())
            else:
                walked.append(name)
        folders[:] = walked
        for name in files:
            path = (relative / name).as_posix()
            if suffix_of(name) not in SUFFIXES and suffix_of(name) not in {*UNREADABLE, *also}:
                left_out.update(_unknown_ending(path, name, exclude))
            elif reason := _file_left_out(path, name, exclude):
                left_out[reason] += 1
            elif reason := _skip_reason(path, name, also):
                skipped.append((printable(path), reason))
            else:
                paths.append(path)
    left_out.update({pattern: 0 for pattern in unused if not _is_inside(pattern, not_walked)})
    paths, duplicates = drop_duplicates(sorted(paths))
    return Walk(paths, sorted([*skipped, *duplicates]), left_out)


def _folder_left_out(path: Path, absolute: str, exclude: Sequence[str]) -> str:
    """Returns the name under which a folder is counted as left out; '' if it is walked."""
    name = path.name
    if os.path.islink(absolute):
        return "links to folders"
    if name.startswith(".") or name.lower() in _SYSTEM_FOLDERS:
        return f"{printable(name)}/"
    return matching_pattern(f"{path.as_posix()}/", exclude)


def _file_left_out(path: str, name: str, exclude: Sequence[str]) -> str:
    """Returns the name under which a file is counted as left out; '' if it is not."""
    if name.startswith("."):
        return "._*" if name.startswith("._") else ".*"
    return matching_pattern(path, exclude)


def _unknown_ending(path: str, name: str, exclude: Sequence[str]) -> list[str]:
    """Returns the ending under which a file of an unknown kind is counted as left out, in a list.

    The list is empty for files that were not meant to be indexed: hidden ones, those of systems, and those
    that a pattern excludes.
    """
    if name.startswith(".") or name.lower() in _SYSTEM_FILES or matching_pattern(path, exclude):
        return []
    return [printable(suffix_of(name)) or "no ending"]


def _is_inside(pattern: str, folders: Collection[str]) -> bool:
    """Returns whether a pattern, whose wildcards may be escaped, is a path inside one of some folders."""
    path = PurePosixPath(re.sub(r"\[([*?[])\]", r"\1", pattern).strip("/"))
    return any(parent.as_posix() in folders for parent in path.parents)


def _skip_reason(path: str, name: str, also: Collection[str] = ()) -> str:
    """Returns why an image file is skipped by its name; '' if it is not."""
    if path != printable(path):
        return "its name is not UTF-8: rename it"
    return why_unreadable(name) if suffix_of(name) in UNREADABLE and suffix_of(name) not in also else ""


def matching_pattern(path: str, patterns: Sequence[str]) -> str:
    """Returns the first pattern that matches a path or one of its parent folders; '' if none does.

    As in .gitignore, a pattern without '/' matches names, one with '/' matches paths from the root, and one
    that ends in '/' matches folders only; one that begins with '/' is a path from the root; `*`, `?` and
    `[...]` match any characters.

    Args:
      path: relative to the root; ends in '/' if it is a folder.
      patterns: the patterns.
    """
    parts = path.split("/")
    for pattern in patterns:
        normalized = unicodedata.normalize("NFC", pattern).strip("/")
        for depth in range(1, len(parts) + 1):
            if pattern.endswith("/") and depth == len(parts):
                continue
            from_root = "/" in normalized or pattern.startswith("/")
            candidate = "/".join(parts[:depth]) if from_root else parts[depth - 1]
            if fnmatchcase(unicodedata.normalize("NFC", candidate), normalized):
                return pattern
    return ""


def unmatched(patterns: Sequence[str], paths: Iterable[str]) -> list[str]:
    """Returns the patterns that match none of some paths, see `matching_pattern`."""
    left = list(patterns)
    for path in paths:
        if not left:
            break
        left = [pattern for pattern in left if not matching_pattern(path, [pattern])]
    return left


def check_patterns(patterns: Sequence[str]) -> None:
    """Checks that each pattern can match something. Raises ArgumentError."""
    for pattern in patterns:
        if not pattern.strip().strip("/"):
            raise ArgumentError(
                f"--exclude {shown(pattern)}: is empty: name files or folders to leave out, such as 'old/'"
            )


def nfc_path(path: str) -> str:
    """Normalizes a path to composed letters (NFC): macOS and some disks write 'é' as 'e' and an accent."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def drop_duplicates(paths: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the paths that differ in their NFC form, and (path, reason) of those that repeat another."""
    first, distinct, duplicates = {}, [], []
    for path in paths:
        earlier = first.setdefault(nfc_path(path), path)
        if earlier == path:
            distinct.append(path)
        else:
            duplicates.append(
                (path, "has the same name as another photo except for how accents are encoded: rename it")
            )
    return distinct, duplicates


def path_on_disk(root: Path, path: str, image_paths: ImagePaths) -> str:
    """Returns the path of a photo as the disk spells it, relative to the root unless it is absolute.

    The table's own may differ from it in the form of accents, in its separators (backslashes on Windows) and
    in the case of its suffix, see `ImagePaths.find`. The path of a missing photo is returned unchanged.
    """
    path = Path(path).as_posix()
    found = image_paths.find(root, path)
    if not os.path.lexists(found):
        return path
    return found if Path(path).is_absolute() else Path(found).relative_to(root).as_posix()


def printable(name: str) -> str:
    """Escapes the bytes of a file name that are not UTF-8, so that it can be printed and stored."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
