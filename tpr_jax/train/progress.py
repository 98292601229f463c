"""The progress of a run beside its state: the best epoch, the zero-shot scores, the time it took.

A checkpoint is saved before its step is evaluated. `checkpoints/progress.json` holds the progress from after
the evaluation; `checkpoints/best` records its own epoch, and metrics.jsonl all scores.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import orbax.checkpoint as ocp
from tqdm import tqdm

from tpr_jax.train import checkpoint
from tpr_jax.utils import checksums
from tpr_jax.utils.files import write_json

NO_BEST = {"best_r1": -1.0, "best_epoch": 0}


@dataclasses.dataclass(frozen=True)
class Progress:
    """The JSON object that is saved beside a state: the notes of a checkpoint, and progress.json.

    Attributes:
      seconds: how long the run took before this process resumed it, or at the time of saving.
      zero_shot: the scores of CLIP itself on `test`; None before they are known.
      best_r1: the highest R@1 on `val` so far, percent; -1 before the first evaluation.
      best_epoch: the epoch of that score.
      backbone: facts about the run's backbone besides its weights, see `results.backbone_facts`.
      annotations: the digest of each split's annotations, see `splits.annotation_digest`.
      skipped: the images that could not be read, each with the reason.
      peak_memory_bytes: the highest resident memory of the process so far.
      peak_device_memory_bytes: the highest memory of its first device so far; None if unknown.
    """

    seconds: float = 0.0
    zero_shot: dict | None = None
    best_r1: float = -1.0
    best_epoch: int = 0
    backbone: dict | None = None
    annotations: dict[str, str] | None = None
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    peak_memory_bytes: int | None = None
    peak_device_memory_bytes: int | None = None

    def as_notes(self) -> dict:
        """Returns the JSON object that is saved."""
        return dataclasses.asdict(self)

    @classmethod
    def from_notes(cls, notes: Mapping) -> "Progress":
        """Returns the progress of a JSON object; keys of other versions are ignored."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in notes.items() if key in names})


def _path(workdir: Path) -> Path:
    return workdir / "checkpoints" / "progress.json"


def write_progress(workdir: Path, step: int, notes: Mapping) -> None:
    """Writes the notes of a step to progress.json.

    Raises:
      UserError: the file cannot be written.
    """
    write_json(_path(workdir), checksums.with_checksums({**notes, "step": step}))


def read_progress(workdir: Path, step: int) -> dict:
    """Returns the notes of a step; empty if progress.json is of another step or cannot be read."""
    try:
        notes, _ = checksums.split_checksums(json.loads(_path(workdir).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return notes if notes.pop("step", None) == step else {}


def scores_at(history: Sequence[dict], step: int, splits: Collection[str]) -> dict | None:
    """Returns the newest row of metrics.jsonl with the scores of all these splits at a step, or None."""
    rows = [row for row in history if row["step"] == step and all(split in row for split in splits)]
    return rows[-1] if splits and rows else None


def find_best(best: ocp.CheckpointManager, step: int) -> dict:
    """Returns `best_r1` and `best_epoch` of the best state up to a step, read from its own checkpoint.

    A best state that cannot be read, or that is from after the step because a newer checkpoint was damaged,
    is deleted: otherwise it would block those that follow.
    """
    for best_step in sorted(best.all_steps(), reverse=True):
        try:
            notes = checkpoint.read_notes(best, best_step)
            scores = {key: notes[key] for key in NO_BEST}
        except (ValueError, KeyError) as error:
            tqdm.write(f"checkpoint {best_step} in {best.directory} cannot be read ({error}): removed")
            best.delete(best_step)
            continue
        if best_step <= step:
            return scores
        tqdm.write(f"checkpoint {best_step} in {best.directory} is from after step {step}: removed")
        best.delete(best_step)
    return dict(NO_BEST)
