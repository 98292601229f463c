"""Finds the photos that an annotation names, and says which names are of one photo."""

import os
import unicodedata
from typing import NamedTuple


class _Listing(NamedTuple):
    """What a folder holds."""

    names: dict[str, str]  # composed name (NFC) -> the name on the disk
    links: frozenset[str]  # composed names of those that are symbolic links


class Photos:
    """Looks photos up on the disk; each folder is listed at most once."""

    def __init__(self):
        self._listings: dict[str, _Listing] = {}
        self._real: dict[str, str] = {}

    def path(self, folder: str | os.PathLike, name: str) -> str:
        """Returns the path of a photo, by the name that an annotation in `folder` has for it.

        Where no file has that very name, one counts whose name has the other Unicode form (a Mac decomposes
        accented letters), then backslashes are read as the slashes of Windows, and blanks around the name are
        dropped. Without any such file it is the name as written, with slashes.
        """
        written = os.path.join(folder, name)
        plain = name.isascii() and "\\" not in name and name == name.strip()
        if plain or os.path.exists(written):
            return written
        slashes = name.replace("\\", "/")
        for spelling in dict.fromkeys((name, slashes, name.strip(), slashes.strip())):
            found = self._find(os.fspath(folder), spelling)
            if found is not None:
                return found
        return os.path.join(folder, slashes)

    def key(self, path: str) -> str:
        """Returns what all paths of one photo share, whether or not it is there.

        That is its path without symbolic links, `.` and `..`, with its letters composed (NFC). Upper and
        lower case, hard links and copies are different photos.
        """
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return unicodedata.normalize("NFC", _real_path(path))
        real = self._real.get(folder)
        if real is None:
            real = self._real[folder] = _real_path(folder)
        composed = unicodedata.normalize("NFC", name)
        if composed in self._list(real).links:
            target = os.path.join(real, self._list(real).names[composed])
            return unicodedata.normalize("NFC", _real_path(target))
        return unicodedata.normalize("NFC", os.path.join(real, composed))

    def _find(self, folder: str, name: str) -> str | None:
        """The path of a file whose name differs from this in its Unicode form at most, or None."""
        at = os.sep if os.path.isabs(name) else folder
        for part in name.split("/"):
            if part in ("", "."):
                continue
            if not os.path.lexists(os.path.join(at, part)):
                part = self._list(at).names.get(unicodedata.normalize("NFC", part))
                if part is None:
                    return None
            at = os.path.join(at, part)
        return at if os.path.exists(at) else None

    def _list(self, folder: str) -> _Listing:
        if folder not in self._listings:
            names, links = {}, set()
            try:
                with os.scandir(folder or ".") as found:
                    for entry in found:
                        composed = unicodedata.normalize("NFC", entry.name)
                        names[composed] = entry.name
                        if entry.is_symlink():
                            links.add(composed)
            except (OSError, ValueError):  # not there or not to be read: its photos are missing, told later
                pass
            self._listings[folder] = _Listing(names, frozenset(links))
        return self._listings[folder]


def is_path(name: str) -> bool:
    """Whether a disk can have a file of this name: without NUL, and no half of a surrogate pair.

    But for U+DC80 to U+DCFF, by which Python names bytes that are not UTF-8.
    """
    try:
        return b"\0" not in name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _real_path(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # the locale's encoding has not these letters, so nothing of that name can be opened
        return os.path.abspath(path)
