"""The folder that pictures go to: empty, new, or with nothing in it but what was drawn before."""

import json
from collections.abc import Mapping
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.utils.files import write_json, write_whole

LIST = "visualize.json"  # in the folder: the command -> the files that it wrote there


def check(out: str | Path) -> dict[str, list[str]]:
    """What the folder lists as drawn before: command -> names of files; nothing where it is new.

    Raises:
      UserError: it is no folder, cannot be read, or holds something that was not drawn by this program.
    """
    out = Path(out)
    remedy = "give --out a new or empty folder"
    try:
        if not out.exists():
            return {}
        if not out.is_dir():
            raise UserError(f"--out {out}: is a file: {remedy}")
        found = sorted(entry.name for entry in out.iterdir())
    except OSError as error:
        raise UserError(f"--out {out}: cannot be read ({error.strerror}): {remedy}") from error
    drawn = _read(out / LIST) if LIST in found else {}
    own = {LIST, *(name for names in drawn.values() for name in names)}
    # What a run that was killed left half written, by `write_whole`.
    half = [name for name in found if name.startswith(".") and name.endswith(".tmp")]
    if other := [name for name in found if name not in own and name not in half]:
        raise UserError(f"--out {out}: holds {other[0]}, which was not drawn here: {remedy}")
    return drawn


def write(out: str | Path, command: str, files: Mapping[str, bytes]) -> None:
    """Writes a command's files, each whole, in place of those that it drew before.

    Raises:
      UserError: as `check`, or the folder cannot be written, or the disk is full.
    """
    out, drawn = Path(out), check(out)
    before = drawn.get(command, [])
    # Listed before they are there, so that a run that is killed leaves nothing that the next would refuse.
    write_json(out / LIST, drawn | {command: sorted({*before, *files})})
    for name, content in files.items():
        write_whole(out / name, lambda temporary, content=content: Path(temporary).write_bytes(content))
    for name in before:
        if name not in files:
            (out / name).unlink(missing_ok=True)
    write_json(out / LIST, drawn | {command: sorted(files)})


def _read(path: Path) -> dict[str, list[str]]:
    try:
        drawn = json.loads(path.read_text())
        names = [name for names in drawn.values() for name in names]
    except (OSError, ValueError, AttributeError, TypeError):
        names = [None]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{path}: is no list of drawn files: give --out a new or empty folder")
    return drawn
