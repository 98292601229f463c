"""Writes the files of a saved model, replacing only those of an earlier save, all together.

config.json records the SHA-256 of the files that were written with it. A file that is not recorded, or was
changed since, belongs to the user.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.utils.files import RANDOM, move_over, remove_leftovers, remove_matching, write_json, write_whole
from tpr_jax.utils.hashing import sha256

CONFIG = "config.json"
INTERRUPTED = "a save that was interrupted"  # model_type while files are moved into place
STAGE_PREFIX = ".saving."  # prefix of the folder that holds the files until they are moved into place
RECORD = "tpr_jax_files"  # key of config.json: file name -> SHA-256
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.index.json")
# Other files that readers of the folder take for part of the model.
SETTINGS = (
    *("preprocessor_config.json", "processor_config.json", "open_clip_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
)


def read_config(folder: Path) -> dict | None:
    """Returns the contents of a folder's config.json, None if it is missing, {} if it is not an object."""
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def written_before(folder: Path) -> set[str]:
    """Returns the names of the files that an earlier save wrote and that are unchanged.

    Raises:
      UserError: a file cannot be read.
    """
    return {
        name
        for name, digests in _record(folder).items()
        if Path(name).name == name and (folder / name).is_file() and sha256([folder / name]) in digests
    }


def _record(folder: Path) -> dict[str, list]:
    """Returns file name -> possible SHA-256; after an interrupted save there are two."""
    record = (read_config(folder) or {}).get(RECORD)
    record = record if isinstance(record, dict) else {}
    return {name: digests if isinstance(digests, list) else [digests] for name, digests in record.items()}


def check(
    folder: Path, patterns: Collection[str] = (*WEIGHTS, *SETTINGS), allowed: Collection[str] = ()
) -> None:
    """Rejects a folder with files that match `patterns`, are not `allowed`, and that no earlier save wrote.

    Raises:
      UserError: there is such a file; the message names it.
    """
    if not folder.is_dir():
        return
    names = {
        path.name for path in folder.iterdir() if any(fnmatch(path.name, pattern) for pattern in patterns)
    }
    # Names of temporary files, which an interrupted save leaves behind, begin with a dot.
    names = {name for name in names if not name.startswith(".")} - set(allowed)
    for name in sorted(names - (written_before(folder) if names else set())):
        raise UserError(
            f"{folder / name}: was not written by an earlier save here and would be replaced or mixed with "
            "this model; save to another folder, or move it away"
        )


def write(folder: Path, files: Mapping[str, Callable[[str], object]], config: Callable[[], dict]) -> None:
    """Writes files and then config.json, and removes the other files of an earlier save.

    All files are written under temporary names first. While they are moved into place, config.json marks the
    folder as incomplete, so that nobody reads a mix of old and new; an interrupted save can be repeated.

    Args:
      folder: created if missing.
      files: name -> a function that writes the file at a given path.
      config: returns the contents of config.json, to which the record is added; called after `files`.

    Raises:
      UserError: the folder cannot be written, or the disk is full.
    """
    stage = None
    remove_unfinished(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=folder, prefix=STAGE_PREFIX))
        for name, write_file in files.items():
            write_whole(stage / name, write_file)
        record = {name: sha256([stage / name]) for name in files}
        content = {**config(), RECORD: record}
        write_json(stage / CONFIG, content)
        before, stale = _record(folder), written_before(folder) - files.keys()
        possible = {name: [*before.get(name, ()), digest] for name, digest in record.items()}
        incomplete = {
            "model_type": INTERRUPTED,
            "backbone": content.get("backbone"),
            RECORD: {**before, **possible},
        }
        write_json(folder / CONFIG, incomplete)
        for name in files:
            move_over(stage / name, folder / name)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
        move_over(stage / CONFIG, folder / CONFIG)
    except UserError as error:
        raise UserError(str(error).replace(str(stage), str(folder))) from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); check the folder") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed saves left in a folder; no other process may be saving there."""
    remove_leftovers(folder, [CONFIG, "README.md"])
    remove_matching(folder, rf"{re.escape(STAGE_PREFIX)}{RANDOM}")


def remove(folder: Path) -> None:
    """Removes the files of an earlier save from a folder, and the folder itself if it is then empty."""
    names = written_before(folder)
    if not names:
        return
    (folder / CONFIG).unlink(missing_ok=True)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
