"""Finds the image files that an annotation names, and identifies paths of the same file."""

import functools
import os
import unicodedata
from typing import NamedTuple

from tpr_jax.utils.lookalikes import describe_lookalike, skeleton


class _Listing(NamedTuple):
    """The contents of a folder."""

    names: dict[str, str]  # composed name (NFC) -> name on disk, or one of them
    twins: frozenset[str]  # names on disk of two files that differ only in their Unicode form
    suffixes: dict[str, list[str]]  # composed name with its suffix in lower case -> names on disk
    links: frozenset[str]  # names of the symbolic links


class ImagePaths:
    """Looks up image files on disk; lists each folder at most once."""

    def __init__(self):
        self._listings: dict[str, _Listing] = {}
        self._real_folders: dict[str, str] = {}
        self._folder_keys: dict[str, str] = {}

    def find(self, folder: str | os.PathLike, name: str) -> str:
        """Returns the path of an image, by the name that an annotation in `folder` has for it.

        If no file has exactly this name, tries the other Unicode form (macOS decomposes accented
        letters), backslashes read as the slashes of Windows, the name without surrounding blanks, and a
        suffix in another case (`.JPG` for `.jpg`). If there is still none, returns the name as written, with
        slashes.
        """
        written = os.path.join(folder, name)
        is_plain = name.isascii() and "\\" not in name and name == name.strip()
        if is_plain:
            parent, base = os.path.split(written)
            listing = self._list(parent)
            others = () if base in listing.names else listing.suffixes.get(_lower_suffix(base), ())
            return os.path.join(parent, others[0]) if len(others) == 1 else written
        if os.path.exists(written):
            return written
        slashes = name.replace("\\", "/")
        for spelling in dict.fromkeys((name, slashes, name.strip(), slashes.strip())):
            path = self._find_any_form(os.fspath(folder), spelling)
            if path is not None:
                return path
        return os.path.join(folder, slashes)

    def key(self, path: str) -> str:
        """Returns a key that all paths of one file share, whether or not the file exists.

        The key is the path without symbolic links, `.` and `..`, with composed letters (NFC), unless a folder
        holds both forms of a name, which are two files. Names that differ in case, hard links and copies have
        different keys.
        """
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return self._folder_key(_real_path(path))
        real_folder = self._real_folders.get(folder)
        if real_folder is None:
            real_folder = self._real_folders[folder] = _real_path(folder)
        listing = self._list(real_folder)
        on_disk = name if name in listing.twins else listing.names.get(_compose(name), name)
        if on_disk in listing.links:
            return self._real_key(_real_path(os.path.join(real_folder, on_disk)))
        return self._real_key(os.path.join(real_folder, name))

    def _real_key(self, path: str) -> str:
        """Returns the key of a path without symbolic links."""
        folder, name = os.path.split(path)
        if not name:
            return path
        if not name.isascii() and name not in self._list(folder).twins:
            name = _compose(name)
        return os.path.join(self._folder_key(folder), name)

    def _folder_key(self, path: str) -> str:
        if path not in self._folder_keys:
            self._folder_keys[path] = self._real_key(path)
        return self._folder_keys[path]

    def _find_any_form(self, folder: str, name: str) -> str | None:
        """Returns the path of a file whose name differs from `name` at most in its Unicode form, or None."""
        path = os.sep if os.path.isabs(name) else folder
        for component in name.split("/"):
            if component in ("", "."):
                continue
            on_disk = component
            if not os.path.lexists(os.path.join(path, component)):
                listing, composed = self._list(path), _compose(component)
                others = listing.suffixes.get(_lower_suffix(composed), ())
                on_disk = listing.names.get(composed, others[0] if len(others) == 1 else None)
                if on_disk is None:
                    return None
            path = os.path.join(path, on_disk)
        return path if os.path.exists(path) else None

    def _list(self, folder: str) -> _Listing:
        if folder not in self._listings:
            names, twins, suffixes, links = {}, set(), {}, set()
            try:
                with os.scandir(folder or ".") as entries:
                    for entry in entries:
                        composed = _compose(entry.name)
                        if composed in names:
                            twins |= {names[composed], entry.name}
                        names[composed] = min(names.get(composed, entry.name), entry.name)
                        suffixes.setdefault(_lower_suffix(composed), []).append(entry.name)
                        if entry.is_symlink():
                            links.add(entry.name)
            except (OSError, ValueError):  # missing or unreadable: its images are reported as missing later
                pass
            self._listings[folder] = _Listing(names, frozenset(twins), suffixes, frozenset(links))
        return self._listings[folder]


def describe_missing(path: str | os.PathLike) -> str:
    """Describes a file or folder whose name looks the same as the first missing one of a path, or returns ''.

    Such names differ in case, in invisible characters, or in letters of other alphabets.
    """
    folder, name = os.path.split(os.fspath(path))
    while folder and not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder, name = os.path.split(folder)
    try:
        names = _names_by_look(folder or ".", os.stat(folder or ".").st_mtime_ns)
    except (OSError, ValueError):
        return ""
    return describe_lookalike(name, names.get(skeleton(name), ()))


@functools.lru_cache(maxsize=16)  # many photos of one folder may be missing
def _names_by_look(folder: str, mtime_ns: int) -> dict[str, list[str]]:
    """Returns the names in a folder by their `skeleton`; `mtime_ns` is the time of its last change."""
    names: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        names.setdefault(skeleton(name), []).append(name)
    return names


def _compose(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _lower_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()


def is_valid_path(name: str) -> bool:
    """Returns whether a file can have this name: no NUL, and no lone surrogate.

    U+DC80 to U+DCFF are allowed: Python uses them for bytes that are not UTF-8.
    """
    try:
        return b"\0" not in name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _real_path(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # the locale's encoding lacks these letters, so no file of that name can be opened
        return os.path.abspath(path)
