"""Checks that all processes of a run, each started by its own command line, compute the same thing.

With another config, data set or backbone on one of them, the run would hang or train on a mixture of both.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence

import jax

from tpr_jax import __version__
from tpr_jax.data.records import Records
from tpr_jax.distributed import processes
from tpr_jax.errors import UserError
from tpr_jax.utils import checksums
from tpr_jax.utils.trees import flatten

# Paths may differ between machines; `of_data` and `of_weights` compare the contents.
PATH_KEYS = ("data_dir", "backbone", "source")


def of_command(config: Mapping, mode: str, rerank: Sequence[str] = (), vectors: Sequence[int] = ()) -> dict:
    """Returns the parts of a command line, and the version, on which all processes have to agree."""
    compared = {key: value for key, value in config.items() if key not in PATH_KEYS}
    if "mix" in compared:
        compared["mix"] = [[name, weight] for name, _, weight in compared["mix"]]
    if "distill" in compared:
        compared["distill"] = {key: value for key, value in compared["distill"].items() if key != "teacher"}
    flags = {"--mode": mode, "--rerank": list(rerank), "--vectors": list(vectors)}
    return {"version": __version__, **flags, "config": compared}


def of_data(splits: Mapping[str, Records]) -> dict:
    """Returns the size of each split and a digest of its annotations, independent of the folder."""
    return {name: _of_split(records) for name, records in splits.items()}


def _of_split(records: Records) -> dict:
    digest = hashlib.sha256()
    folder = os.path.commonpath(records.image_paths) if records.image_paths else ""
    for row, path in enumerate(records.image_paths):
        name = os.path.relpath(path, folder) if folder else path
        box = records.boxes[row] if records.boxes else None
        digest.update(json.dumps([name, records.captions[row], int(records.pids[row]), box]).encode())
    captions = sum(map(len, records.captions))
    return {"images": len(records.image_paths), "captions": captions, "annotations": digest.hexdigest()[:12]}


def of_weights(params: Mapping) -> dict:
    """Returns a digest of weights that each process holds in full."""
    return {"checksum": checksums.json_digest(checksums.tree_checksums(params))[:12]}


def check_same(what: str, mine: Mapping, remedy: str) -> None:
    """Compares nested values with those of the other processes; all processes have to call this.

    Args:
      what: what is compared, for the message.
      mine: this process's values.
      remedy: what the user can do about a difference.

    Raises:
      UserError: a value differs. Raised in all processes; names the first value that differs from the first
        process.
    """
    if jax.process_count() == 1:
        return
    gathered = processes.all_gather_dict({str(jax.process_index()): json.dumps(mine)})
    values = [flatten(json.loads(gathered[str(i)])) for i in range(len(gathered))]
    for i, theirs in enumerate(values[1:], 1):
        for key in {**values[0], **theirs}:
            if theirs.get(key) != values[0].get(key):
                raise UserError(
                    f"process {i} was started with another {what} than process 0: {key.replace('/', '.')} "
                    f"is {theirs.get(key)!r} instead of {values[0].get(key)!r}: {remedy}"
                )
