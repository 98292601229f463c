"""The folder that a model is saved to: only files of an earlier save are replaced, and all of them together.

`config.json` records the SHA-256 of the files that were written beside it. A file that is not recorded there,
or was changed since, is somebody's own.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.utils.files import move_over, write_json, write_whole
from tpr_jax.utils.hashing import sha256

CONFIG = "config.json"
INTERRUPTED = "a save that was interrupted"  # the model_type while files are moved into place
RECORD = "tpr_jax_files"  # key of config.json: file name -> SHA-256
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.index.json")
# What else a reader of the folder would take for a part of the model.
SETTINGS = (
    *("preprocessor_config.json", "processor_config.json", "open_clip_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
)


def read_config(folder: Path) -> dict | None:
    """The contents of a folder's config.json; None where there is none, {} where it is something else."""
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def written_before(folder: Path) -> set[str]:
    """The names of the files that an earlier save wrote, and nobody has changed since.

    Raises:
      UserError: a file cannot be read.
    """
    return {
        name
        for name, digests in _record(folder).items()
        if Path(name).name == name and (folder / name).is_file() and sha256([folder / name]) in digests
    }


def _record(folder: Path) -> dict[str, list]:
    """File name -> the SHA-256 that it has, or of a save that was interrupted the two that it may have."""
    record = (read_config(folder) or {}).get(RECORD)
    record = record if isinstance(record, dict) else {}
    return {name: digests if isinstance(digests, list) else [digests] for name, digests in record.items()}


def check(folder: Path, patterns: Collection[str] = (*WEIGHTS, *SETTINGS), own: Collection[str] = ()) -> None:
    """Refuses a folder with files of the model's kind that no earlier save wrote, but for those in `own`.

    Raises:
      UserError: there is such a file; it is named.
    """
    if not folder.is_dir():
        return
    there = {
        path.name for path in folder.iterdir() if any(fnmatch(path.name, pattern) for pattern in patterns)
    }
    # What an interrupted save left has a name with a dot in front.
    there = {name for name in there if not name.startswith(".")} - set(own)
    for name in sorted(there - (written_before(folder) if there else set())):
        raise UserError(
            f"{folder / name}: was not written by an earlier save here and would be replaced or mixed with "
            "this model; save to another folder, or move it away"
        )


def write(folder: Path, files: Mapping[str, Callable[[str], object]], config: Callable[[], dict]) -> None:
    """Writes files and then config.json, and removes those of an earlier save that are not written again.

    All are written under temporary names first. While they are moved into place config.json says that, so
    that nobody reads old and new files together; a save that was interrupted then can be repeated.

    Args:
      folder: is made where it is not there yet.
      files: name -> a function that writes the file of a given path.
      config: gives the contents of config.json, to which the record is added; called after `files`.

    Raises:
      UserError: the folder cannot be written, or the disk is full.
    """
    stage = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=folder, prefix=".saving."))
        for name, put in files.items():
            write_whole(stage / name, put)
        record = {name: sha256([stage / name]) for name in files}
        content = {**config(), RECORD: record}
        write_json(stage / CONFIG, content)
        before, stale = _record(folder), written_before(folder) - files.keys()
        both = {name: [*before.get(name, ()), digest] for name, digest in record.items()}
        between = {"model_type": INTERRUPTED, "backbone": content.get("backbone"), RECORD: {**before, **both}}
        write_json(folder / CONFIG, between)
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


def remove(folder: Path) -> None:
    """Removes what an earlier save wrote into a folder, and the folder where nothing else is in it."""
    names = written_before(folder)
    if not names:
        return
    (folder / CONFIG).unlink(missing_ok=True)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
