"""A folder that appears whole or not at all, in the place of an older one of the same kind or of none."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.utils.files import exchange

ABOUT = "export.json"
MADE_BY = "tpr_jax.export"  # in it, so that an older export is known


def check_place(folder: str | os.PathLike) -> None:
    """Raises a UserError where an export would take the place of something else than an older one."""
    folder = Path(folder)
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise UserError(f"--out {folder}: is no folder; name another place")
    held = sizes(folder)
    if not held and not any(folder.iterdir()):
        return
    about = about_export(folder)
    if about.get("made_by") != MADE_BY:
        raise UserError(f"--out {folder}: holds something else than an export; name another folder")
    if others := held.keys() - {ABOUT, *about.get("bytes", {})}:
        raise UserError(f"--out {folder}: holds {min(others)} beside an export; name another folder")


def about_export(folder: Path) -> dict:
    """Returns what export.json says; {} where there is none that can be read."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def sizes(folder: Path) -> dict[str, int]:
    """path within the folder -> bytes, of all its files."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in files}


@contextlib.contextmanager
def whole_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """A folder to write to, which takes the place of `folder` at the end, and goes where there is an error.

    Raises:
      UserError: as `check_place`, or the place cannot be written.
    """
    folder = Path(folder).resolve()
    check_place(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise UserError(
            f"--out {folder}: cannot be written ({error.strerror}); name another place"
        ) from error
    try:
        new, old = beside / "new", beside / "old"
        new.mkdir()
        yield new
        exchange(new, folder, old)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
