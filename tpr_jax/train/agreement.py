"""Do all processes of a run compute the same? Each was started by a command line of its own.

With another config, data set or backbone on one of them the run would hang, or train on a mixture of both.
"""

import hashlib
import json
import os
from collections.abc import Mapping

import jax

from tpr_jax import __version__
from tpr_jax.data.records import Records
from tpr_jax.distributed import processes
from tpr_jax.errors import UserError
from tpr_jax.utils import checksums

# Where data and weights lie may differ between machines; `of_data` and `of_weights` compare what lies there.
PLACES = ("data_dir", "backbone", "source")


def of_command(config: Mapping, mode: str) -> dict:
    """Returns what the command lines and packages of all processes have to agree on."""
    told = {key: value for key, value in config.items() if key not in PLACES}
    if "mix" in told:
        told["mix"] = [[name, weight] for name, _, weight in told["mix"]]
    return {"version": __version__, "--mode": mode, "config": told}


def of_data(splits: Mapping[str, Records]) -> dict:
    """Returns how much each split holds, and a digest of its annotations, whatever folder they lie in."""
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
    """Returns a digest of weights that each process has for itself."""
    return {"checksum": checksums.json_digest(checksums.tree_checksums(params))[:12]}


def check_same(what: str, mine: Mapping, remedy: str) -> None:
    """Compares something with what the other processes have; all have to call this.

    Raises:
      UserError: on all processes, with the first thing in which one differs from the first process.
    """
    if jax.process_count() == 1:
        return
    told = processes.all_gather_dict({str(jax.process_index()): json.dumps(mine)})
    flat = [_flat(json.loads(told[str(i)])) for i in range(len(told))]
    for i, theirs in enumerate(flat[1:], 1):
        for key in {**flat[0], **theirs}:
            if theirs.get(key) != flat[0].get(key):
                raise UserError(
                    f"process {i} was started with another {what} than process 0: {key} is "
                    f"{theirs.get(key)!r} instead of {flat[0].get(key)!r}: {remedy}"
                )


def _flat(tree: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
