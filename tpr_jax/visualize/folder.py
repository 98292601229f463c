"""Manages the output folder: new, empty, or with only files of earlier commands."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.utils.files import remove_leftovers, write_json, write_whole

MANIFEST = "visualize.json"  # in the folder: command -> names of the files that it wrote


def check_folder(out: str | Path) -> dict[str, list[str]]:
    """Returns the files that earlier commands wrote to a folder: command -> names of files.

    Raises:
      UserError: it is not a directory, cannot be read, or holds files that this program did not write.
    """
    out = Path(out)
    remedy = "give --out a new or empty folder"
    try:
        if not out.exists():
            return {}
        if not out.is_dir():
            raise UserError(f"--out {out}: is a file: {remedy}")
        names = sorted(entry.name for entry in out.iterdir())
    except OSError as error:
        raise UserError(f"--out {out}: cannot be read ({error.strerror}): {remedy}") from error
    drawn = _read(out / MANIFEST) if MANIFEST in names else {}
    own = {MANIFEST, *itertools.chain(*drawn.values())}
    # Temporary files of `write_whole`, left behind by a run that was killed.
    temporary = [name for name in names if name.startswith(".") and name.endswith(".tmp")]
    if other := [name for name in names if name not in own and name not in temporary]:
        raise UserError(f"--out {out}: holds {other[0]}, which was not drawn here: {remedy}")
    return drawn


def write_files(out: str | Path, command: str, files: Mapping[str, bytes]) -> None:
    """Writes a command's files, each atomically, and removes its older files.

    Raises:
      UserError: as for `check_folder`, or the folder cannot be written, or the disk is full.
    """
    out, drawn = Path(out), check_folder(out)
    before = drawn.get(command, [])
    remove_leftovers(out, [MANIFEST, *itertools.chain(*drawn.values())])
    # Listed before they are written, so that a killed run leaves no file that the next one rejects.
    write_json(out / MANIFEST, drawn | {command: sorted({*before, *files})})
    for name, content in files.items():
        write_whole(out / name, lambda temporary, content=content: Path(temporary).write_bytes(content))
    for name in before:
        if name not in files:
            (out / name).unlink(missing_ok=True)
    write_json(out / MANIFEST, drawn | {command: sorted(files)})


def _read(path: Path) -> dict[str, list[str]]:
    try:
        drawn = json.loads(path.read_text())
        names = [name for names in drawn.values() for name in names]
    except (OSError, ValueError, AttributeError, TypeError):
        names = [None]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{path}: is not a list of drawn files: give --out a new or empty folder")
    return drawn
