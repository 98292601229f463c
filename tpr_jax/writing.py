"""A user's file is never half a file: written under a temporary name beside it, then moved into place."""

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from tpr_jax.errors import UserError


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
        os.chmod(temporary, 0o644)  # mkstemp makes private files; these are to be shared like any other
        os.replace(temporary, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"no space left on the disk of {path}: free some and run the same command to go on"
            ) from error
        raise UserError(f"{path}: cannot be written ({error}); check the folder") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def exchange(new: Path, folder: Path, old: Path) -> None:
    """Moves the folder `new` to where `folder` is, or is to be; what was there goes to `old`, and comes back
    where the move fails."""
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text whole, in UTF-8; half of a surrogate pair, as in odd paths, as its escape.

    Raises UserError as `write_whole`.
    """
    content = text.encode("utf-8", "backslashreplace")
    write_whole(path, lambda temporary: Path(temporary).write_bytes(content))


def write_json(path: str | os.PathLike, value) -> None:
    """Writes a value as JSON, indented. Raises UserError as `write_whole`."""
    write_text(path, json.dumps(value, indent=2) + "\n")
