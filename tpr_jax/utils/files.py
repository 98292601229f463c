"""Writes files atomically: under a temporary name in the same folder, then moved into place."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tpr_jax.errors import UserError, describe_disk_limit

RANDOM = "[a-z0-9_]{8}"  # a regular expression for the characters that `tempfile` puts into a name


def write_whole(path: str | os.PathLike, write: Callable[[str], object]) -> None:
    """Calls `write` with a temporary name in the folder of `path`, then moves the result into place.

    Raises:
      UserError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        write(temporary)
        os.chmod(temporary, 0o644)  # mkstemp makes private files; these should be readable like any other
        os.replace(temporary, path)
    except OSError as error:
        if line := describe_disk_limit(error, path):
            raise UserError(line) from error
        raise UserError(f"{path}: cannot be written ({error}); check the folder") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def move_over(written: str | os.PathLike, path: str | os.PathLike) -> None:
    """Moves a completely written file to `path`, replacing a file there.

    Raises:
      OSError: the folder cannot be written.
    """
    os.replace(written, path)


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Removes the temporary files that interrupted calls of `write_whole` for these names left in `folder`.

    No other process may be writing them at the time. Files that cannot be removed are left.
    """
    remove_leftovers_matching(folder, "|".join(map(re.escape, names)))


def remove_leftovers_matching(folder: Path, pattern: str) -> None:
    """Does the same as `remove_leftovers` for all names that match a regular expression in full."""
    for path in _matching(folder, rf"\.(?:{pattern})\.{RANDOM}\.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_matching(folder: Path, pattern: str) -> None:
    """Removes the files and folders in `folder` whose names match a regular expression in full; no links."""
    for path in _matching(folder, pattern):
        if path.is_symlink():
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def list_matching(folder: Path, pattern: str) -> list[Path]:
    """Lists the files and folders in `folder` whose names match a regular expression in full, sorted.

    A folder that does not exist, or is a file, has none.

    Raises:
      OSError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if re.fullmatch(pattern, path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Lists as `list_matching`, but nothing if the folder cannot be read."""
    with contextlib.suppress(OSError):
        return list_matching(folder, pattern)
    return []


def exchange(new: Path, folder: Path, old: Path) -> None:
    """Moves the folder `new` to `folder`, whose previous content moves to `old`.

    If the second move fails, the previous content is moved back.
    """
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text in UTF-8 with `write_whole`; escapes lone surrogates, as paths may have.

    Raises:
      UserError: the folder cannot be written, or the disk is full.
    """
    content = text.encode("utf-8", "backslashreplace")
    write_whole(path, lambda temporary: Path(temporary).write_bytes(content))


def write_json(path: str | os.PathLike, value) -> None:
    """Writes a value as indented JSON with `write_whole`.

    Raises:
      UserError: the folder cannot be written, or the disk is full.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")
