"""Scores a run that has checkpoints, or its model before training: `main --mode eval`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tpr_jax.config import defaults as config_lib
from tpr_jax.distributed import processes, sharding
from tpr_jax.errors import UserError
from tpr_jax.perf import host, memory
from tpr_jax.train import checkpoint, provenance, writer
from tpr_jax.train import vectors as vectors_lib
from tpr_jax.train.evaluate import Evaluator
from tpr_jax.train.results import data_summary, training_facts
from tpr_jax.train.setup import Run, make_optimizer, prepare
from tpr_jax.train.state import TrainState
from tpr_jax.train.summary import format_scores
from tpr_jax.utils.files import remove_leftovers, write_json
from tpr_jax.utils.notices import print_once

NO_CHECKPOINT = {"checkpoint": None, "step": 0}


def evaluate_run(
    config: ConfigDict,
    workdir: Path,
    *,
    initial: bool = False,
    rerank: Sequence[str] = (),
    vectors: Sequence[int] = (),
) -> dict:
    """Scores the best state of a run on val and test, and writes eval.json; trains nothing.

    Without a best state the newest is scored.

    Args:
      config: The config of the run.
      workdir: The folder of the run.
      initial: Whether the model before training is scored, whatever the folder has.
      rerank: Names of `metrics.rerank.OPTIONS`, which are scored besides; see `rerank.score_options`.
      vectors: Sizes of cut vectors, which are scored besides; see `vectors.score_vectors`.

    Returns:
      The content of eval.json.

    Raises:
      UserError: there are no checkpoints, or the run cannot be read.
    """
    if not initial:
        check_has_state(config, workdir)
    defaults = config_lib.to_plain(config_lib.base())
    writes = () if is_result(workdir / "eval.json") else ("eval.json",)
    writer.check_workdir(workdir, config_lib.to_plain(config), config_lib.FREE_ON_RESUME, defaults, writes)
    if processes.is_first():
        remove_leftovers(workdir, ["eval.json"])
    run = prepare(config, to_train=False)
    if initial:
        state, source = initial_state(run), NO_CHECKPOINT
    else:
        state, source = restore_best(run, workdir)
    scored: dict[str, Any] = {
        "method": config.method.name,
        "dataset": config.dataset,
        "backbone": provenance.backbone_facts(run),
        **training_facts(config),
        **run.num_params(),
        **source,
    }
    print(f"scoring {scored['checkpoint'] or 'the initial weights'} (step {scored['step']})")
    evaluator, encoded = Evaluator(run), {}
    variables = run.variables(state.averaged)
    for split in ("val", "test"):
        if split in run.splits:
            scored[split], encoded[split] = evaluator.score_split(variables, split)
            print(f"{split}: {format_scores(scored[split])}")
    if rerank:
        from tpr_jax.train import rerank as rerank_lib  # imports SciPy, which takes 0.2 s

        scored["rerank"] = rerank_lib.score_options(
            encoded, rerank, lambda: evaluator.encode_captions(variables, "train")
        )
        print("after training, text to image:")
        print(rerank_lib.options_table(scored["test"]["t2i"], scored["rerank"]))
    if vectors:
        scored["vectors"] = vectors_lib.score_vectors(encoded["test"], vectors)
        print("shorter vectors, text to image:")
        print(vectors_lib.vectors_table(scored["vectors"]))
    scored |= data_summary(run) | memory.peaks({})
    scored["environment"] = host.describe(run.mesh.devices.flatten().tolist())
    if processes.is_first():
        write_json(workdir / "eval.json", scored)
    print(f"written: {workdir / 'eval.json'}")
    return scored


def is_result(path: Path) -> bool:
    """Returns whether a file is an earlier eval.json, which does not need a run beside it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"method", "dataset", "test"} <= content.keys()


def check_has_state(config: ConfigDict, workdir: Path) -> None:
    """Rejects a folder without a run's checkpoints, unless the method trains nothing.

    Raises:
      UserError: there are none; most often, the folder is mistyped.
    """
    folders = [workdir / "checkpoints" / name for name in ("best", "latest")]
    has_some = any(folder.is_dir() and any(folder.iterdir()) for folder in folders)
    if config_lib.make_method(config).trainable and not has_some:
        raise UserError(
            f"{workdir}: has no checkpoints of a run; check --workdir, or add --initial to score the model "
            "before training"
        )


def initial_state(run: Run) -> TrainState:
    """Returns the state of a run before training."""
    # Of the optimizer only the structure is needed, which depends neither on the schedule nor on the epoch.
    _, optimizer = make_optimizer(run.config, run.clip_config, run.trainable, per_epoch=1)
    return sharding.shard_params(run.mesh, TrainState.create(optimizer, run.trainable))


def restore_best(run: Run, workdir: Path) -> tuple[TrainState, dict]:
    """Restores the best state of a run, else its newest, else the state before training.

    Returns:
      (state, {"checkpoint", "step"}), with `checkpoint` "best", "latest" or None.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    facts = provenance.backbone_facts(run)
    initial = initial_state(run)
    for name in ("best", "latest"):
        folder = workdir / "checkpoints" / name
        if not folder.is_dir():
            continue
        try:
            restored = checkpoint.restore_newest(checkpoint.open_manager(folder, keep=2), initial.as_dict())
        except UserError as error:
            if name == "latest":
                raise
            print(f"{error}; using the newest state instead")
            continue
        if restored is not None:
            for step in restored.unreadable:
                print(f"checkpoint {step} in {folder} cannot be read: fell back to step {restored.step}")
            provenance.check_backbone(restored.notes.get("backbone"), facts, workdir)
            if changed := provenance.changed_splits(
                restored.notes.get("annotations"), run.data["annotations"]
            ):
                print_once(f"{workdir} was trained on other data: {changed} had other people or captions")
            return TrainState.from_dict(restored.state), {"checkpoint": name, "step": restored.step}
    return initial, NO_CHECKPOINT
