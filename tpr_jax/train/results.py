"""The results of a finished run: results.json and the trained model."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from tpr_jax.config import defaults as config_lib
from tpr_jax.data.records import image_sources
from tpr_jax.errors import UserError
from tpr_jax.perf import host, memory
from tpr_jax.train.checkpoint import Checkpointer
from tpr_jax.train.evaluate import EncodedSplit, Evaluator
from tpr_jax.train.progress import Progress
from tpr_jax.train.setup import Run
from tpr_jax.train.state import TrainState
from tpr_jax.utils.plural import counted
from tpr_jax.weights.save_adapter import check_save_folder, is_plain_clip, save_adapter


class Outcome(NamedTuple):
    """The outcome of training.

    Attributes:
      results: the content of results.json.
      encoded: the test split, encoded with the last state.
      trainable: the trainable collections of the best state on val, or of the last state if there is none.
    """

    results: dict
    encoded: EncodedSplit
    trainable: dict


def final_results(
    evaluator: Evaluator,
    state: TrainState,
    checkpointer: Checkpointer,
    progress: Progress,
    history: Sequence[dict],
    seconds: Callable[[], float],
) -> Outcome:
    """Scores the last and the best state on test, and collects the results of a finished run.

    Args:
      evaluator: scores the run's splits.
      state: the last state.
      checkpointer: holds the best state.
      progress: the progress of the run.
      history: the rows of metrics.jsonl.
      seconds: returns how long the run has taken.
    """
    run = evaluator.run
    test, encoded = evaluator.score_split(run.variables(state.averaged), "test")
    val_scores = [row["val"] for row in history if "val" in row]
    final = {"val": val_scores[-1], "test": test} if val_scores else {"test": test}
    best, best_on_val = None, None
    try:
        best = checkpointer.restore_best(state)
    except UserError as error:  # not a reason to lose the other results
        print(f"{error}; the results omit it")
    trainable = (state if best is None else TrainState.from_dict(best.state)).averaged
    if best is not None:
        scores, _ = evaluator.score_split(run.variables(trainable), "test")
        best_on_val = {"epoch": best.notes["best_epoch"], "test": scores}
    results = {
        "method": run.config.method.name,
        "dataset": run.config.dataset,
        "backbone": progress.backbone,
        **training_facts(run.config),
        **run.num_params(),
        "steps": int(state.step),
        "seconds": seconds(),
        "zero_shot": {"test": progress.zero_shot},
        "final": final,
        "best_on_val": best_on_val,
        "best_on_test": best_on_test(history),
        **data_summary(run),
        "environment": host.describe(run.mesh.devices.flatten().tolist()),
        **memory.peaks(dataclasses.asdict(progress)),
    }
    return Outcome(results, encoded, trainable)


def best_on_test(history: Sequence[dict]) -> dict | None:
    """Returns the scores that most papers report: those of the epoch with the highest R@1 on test itself.

    Args:
      history: the rows of metrics.jsonl; the first row with the highest score counts.

    Returns:
      {"epoch", "test", "note"}, or None if the run did not score test along the way.
    """
    scored = [row for row in history if "test" in row]
    if not scored:
        return None
    best = max(scored, key=lambda row: row["test"]["t2i"]["R1"])
    note = (
        f"the best of {len(scored)} epochs, chosen on the test split itself as in most publications: "
        "an optimistic score"
    )
    return {"epoch": best["epoch"], "test": best["test"], "note": note}


def training_facts(config: ConfigDict) -> dict:
    """Returns what results.json says of the training besides the method, where it is used."""
    facts = {"ema_decay": config.optimizer.ema_decay, "teacher": config.distill.teacher}
    return {key: value for key, value in facts.items() if value}


def data_summary(run: Run) -> dict:
    """Returns `data`, a summary of the splits, and `skipped`, the unreadable images if they were skipped.

    `skipped.test` is the number of those of test, which are left out of its gallery.

    Prints the skipped images.
    """
    if run.skipped is None:
        return {"data": run.data}
    for name, reason in sorted(run.skipped.items()):
        print(f"skipped: {reason if reason.startswith(name) else f'{name}: {reason}'}")
    print(f"{counted(len(run.skipped), 'photo')} skipped")
    test = sum(str(source) in run.skipped for source in image_sources(run.splits["test"]))
    skipped = {"count": len(run.skipped), "test": test, "pictures": dict(sorted(run.skipped.items()))}
    return {"data": run.data, "skipped": skipped}


def check_model_folder(run: Run, workdir: Path) -> None:
    """Checks before training that `write_model` can write its folder.

    Raises:
      UserError: the folder cannot be written, or holds other files.
    """
    base = None if run.config.from_scratch else run.backbone
    plain = is_plain_clip(run.clip_config, run.method, run.variables(run.trainable), base)
    check_save_folder(workdir / "model", plain, base)


def write_model(run: Run, workdir: Path, variables: dict, results: dict) -> None:
    """Writes the trained model to `workdir/model`, where `from_pretrained` reads it.

    Args:
      run: the run.
      workdir: its folder.
      variables: all collections of the trained model, on the host or replicated.
      results: the content of results.json.
    """
    save_adapter(
        workdir / "model",
        run.clip_config,
        run.method,
        variables,
        # Weights that were initialized rather than read exist nowhere else, so they are written too.
        backbone=None if run.config.from_scratch else run.backbone,
        tokenizer=run.tokenizer,
        results=results,
        training=config_lib.to_plain(run.config),
    )
