"""Writes a folder atomically, replacing an older export."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.utils.files import RANDOM, exchange, move_over

DESCRIPTION = "export.json"
MADE_BY = "tpr_jax.export"  # in export.json, to recognize an older export


def check_out_folder(folder: str | os.PathLike) -> None:
    """Raises a UserError if an export would replace anything other than an older export."""
    folder = Path(folder)
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise UserError(f"--out {folder}: is not a directory; choose another path")
    files = file_sizes(folder)
    if not files and not any(folder.iterdir()):
        return
    description = read_description(folder)
    if description.get("made_by") != MADE_BY:
        raise UserError(f"--out {folder}: holds something other than an export; choose another folder")
    if others := files.keys() - {DESCRIPTION, *description.get("bytes", {})}:
        raise UserError(f"--out {folder}: holds {min(others)} beside an export; choose another folder")


def read_description(folder: Path) -> dict:
    """Returns the contents of export.json, or {} if it cannot be read."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return description if isinstance(description, dict) else {}


def file_sizes(folder: Path) -> dict[str, int]:
    """Returns path within the folder -> size in bytes, for all of its files."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in files}


def _recover(folder: Path) -> None:
    """Removes what killed exports left beside `folder`, and moves an older export back if it is there."""
    with contextlib.suppress(OSError):
        for left in folder.parent.iterdir():
            if re.fullmatch(rf"\.{re.escape(folder.name)}\.{RANDOM}", left.name) and left.is_dir():
                if (left / "old").is_dir() and not folder.exists():
                    move_over(left / "old", folder)
                if {path.name for path in left.iterdir()} <= {"new", "old"}:
                    shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def atomic_folder(folder: str | os.PathLike) -> Generator[Path, None, None]:
    """Yields a temporary folder that replaces `folder` at the end and is removed on an error.

    No other process may be exporting to the same folder.

    Raises:
      UserError: as for `check_out_folder`, or the folder cannot be written.
    """
    folder = Path(folder).resolve()
    _recover(folder)
    check_out_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise UserError(
            f"--out {folder}: cannot be written ({error.strerror}); choose another path"
        ) from error
    try:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        yield new
        exchange(new, folder, old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
