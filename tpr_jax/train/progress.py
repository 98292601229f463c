"""What a run knows at a step besides its checkpoint, which is saved before the step is evaluated.

`checkpoints/progress.json` holds the notes from after the evaluation; `checkpoints/best` knows by itself of
which epoch it is, and metrics.jsonl what was scored.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import orbax.checkpoint as ocp
from tqdm import tqdm

from tpr_jax.train import checkpoint
from tpr_jax.utils import checksums
from tpr_jax.utils.files import write_json

NONE_YET = {"best_r1": -1.0, "best_epoch": 0}


def _path(workdir: Path) -> Path:
    return workdir / "checkpoints" / "progress.json"


def write_progress(workdir: Path, step: int, notes: dict) -> None:
    """Writes the notes as they are at a step. Raises UserError as `write_whole`."""
    write_json(_path(workdir), checksums.with_checksums({**notes, "step": step}))


def read_progress(workdir: Path, step: int) -> dict:
    """Returns the notes written at this step; empty where they are of another step or cannot be read."""
    try:
        notes, _ = checksums.split_checksums(json.loads(_path(workdir).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return notes if notes.pop("step", None) == step else {}


def scores_at(history: Sequence[dict], step: int, splits: Collection[str]) -> dict | None:
    """Returns the newest row with the scores of all these splits at a step, or None."""
    found = [row for row in history if row["step"] == step and all(split in row for split in splits)]
    return found[-1] if splits and found else None


def find_best(best: ocp.CheckpointManager, step: int) -> dict:
    """Returns `best_r1` and `best_epoch` of the best state up to a step, as its own checkpoint tells them.

    A best state that cannot be read, or is from after the step, as where a newer checkpoint was damaged, is
    removed: it would stand in the way of those to come.
    """
    for at_step in sorted(best.all_steps(), reverse=True):
        try:
            notes = checkpoint.read_notes(best, at_step)
            found = {key: notes[key] for key in NONE_YET}
        except (ValueError, KeyError) as error:
            tqdm.write(f"checkpoint {at_step} in {best.directory} cannot be read ({error}): removed")
            best.delete(at_step)
            continue
        if at_step <= step:
            return found
        tqdm.write(f"checkpoint {at_step} in {best.directory} is from after step {step}: removed")
        best.delete(at_step)
    return dict(NONE_YET)
