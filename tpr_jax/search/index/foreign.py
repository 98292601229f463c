"""Finds a user's files where an index would replace or remove them, before it is written."""

import os
import re
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.footage.scan import is_scan
from tpr_jax.search.index import names
from tpr_jax.utils.files import list_matching


def check_new(folder: Path) -> None:
    """Checks that a folder without `index.json` has no files that a new index would replace or remove.

    What a first run that was killed has left is no obstacle.

    Args:
      folder: the folder; it may be missing.

    Raises:
      UserError: there is such a file.
    """
    own = {names.CROPS: _is_of_footage, names.PARTS: _is_shard}
    inside = [(name, path) for name in own for path in _visible(folder / name)]
    foreign = [f"{name}/{path.name}" for name, path in inside if not own[name](path)]
    # A killed run has left files of an index only beside the vectors that it made them from.
    has_shards = any(name == names.PARTS for name, _ in inside)
    pattern = re.escape(names.CHANCE)
    if not has_shards:
        pattern += f"|{re.escape(names.SKIPPED)}|{names.NUMBERED}"
    foreign += [path.name for path in list_matching(folder, pattern)]
    if foreign:
        raise UserError(
            f"--index {folder}: holds {foreign[0]}, which a new index would replace or remove: "
            "choose another --index, or move it"
        )


def check_source(folder: Path, source: str | os.PathLike) -> None:
    """Checks that photos are not where an index keeps files of its own.

    Args:
      folder: the index.
      source: what is to be indexed.

    Raises:
      UserError: they are.
    """
    path = Path(os.path.realpath(source))
    for name in (names.CROPS, names.PARTS):
        if path.is_relative_to(os.path.realpath(folder / name)):
            raise UserError(
                f"--index {folder}: keeps files of its own in {folder / name}, where {source} is: "
                "choose another --index"
            )


def _is_of_footage(path: Path) -> bool:
    return is_scan(path) if path.is_dir() else bool(re.fullmatch(names.SCANNED_PHOTOS, path.name))


def _is_shard(path: Path) -> bool:
    return bool(re.fullmatch(names.SHARD, path.name))


def _visible(folder: Path) -> list[Path]:
    """Returns what is in a folder, without the hidden files of desktops and of writers that were killed."""
    return list_matching(folder, r"(?s:[^.].*)")
