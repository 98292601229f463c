"""The results of a run: results.json, eval.json, the trained model, and the summary at the end."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from tpr_jax.config import defaults as config_lib
from tpr_jax.data.annotations import annotation_path
from tpr_jax.data.custom import read_rows
from tpr_jax.data.datasets import DATASETS
from tpr_jax.data.records import image_sources
from tpr_jax.distributed import processes, sharding
from tpr_jax.errors import UserError
from tpr_jax.perf import host, memory
from tpr_jax.train import checkpoint, lineage, writer
from tpr_jax.train import vectors as vectors_lib
from tpr_jax.train.checkpoint import Checkpointer
from tpr_jax.train.evaluate import EncodedSplit, Evaluator
from tpr_jax.train.progress import Progress
from tpr_jax.train.setup import Run, count, make_optimizer, prepare
from tpr_jax.train.state import TrainState
from tpr_jax.utils.files import remove_leftovers, write_json
from tpr_jax.utils.notices import print_once
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


NO_CHECKPOINT = {"checkpoint": None, "step": 0}


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
    facts = backbone_facts(run)
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
            check_backbone(restored.notes.get("backbone"), facts, workdir)
            if changed := changed_splits(restored.notes.get("annotations"), run.data["annotations"]):
                print_once(f"{workdir} was trained on other data: {changed} had other people or captions")
            return TrainState.from_dict(restored.state), {"checkpoint": name, "step": restored.step}
    return initial, NO_CHECKPOINT


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
    writer.check_workdir(workdir, config_lib.to_plain(config), config_lib.FREE_ON_RESUME, defaults)
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
        "backbone": backbone_facts(run),
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


def backbone_facts(run: Run) -> dict:
    """Returns facts about a run's backbone besides its weights, as JSON values.

    `revision` is the commit of a hub id, None for a folder. `trained_on` has the data sets of the run that
    trained the backbone, if it is one's folder.
    """
    base, sizes = run.backbone, run.clip_config
    earlier = () if run.config.from_scratch else lineage.of_backbone(str(run.config.backbone))
    return {
        "name": base.name,
        "revision": base.revision,
        "image_mean": list(sizes.image_mean),
        "image_std": list(sizes.image_std),
        "act": sizes.act,
        "heads": [sizes.vision_heads, sizes.text_heads],
        "image_size": list(sizes.image_size),
        "text_length": run.config.text_length or sizes.context_length,
        "from_scratch": bool(run.config.from_scratch),
        "params": sum(count(part.get("params", {})) for part in (run.trainable, run.frozen)),
        **({"trained_on": list(earlier)} if earlier else {}),
    }


def training_facts(config: ConfigDict) -> dict:
    """Returns what results.json says of the training besides the method, where it is used."""
    facts = {"ema_decay": config.optimizer.ema_decay, "teacher": config.distill.teacher}
    return {key: value for key, value in facts.items() if value}


def check_backbone(before: dict | None, now: dict, workdir: Path) -> None:
    """Compares the backbone that a run's checkpoints were trained with to the current one.

    Args:
      before: the facts in the checkpoint; None in old checkpoints.
      now: the facts of the current backbone.
      workdir: the folder of the run, for messages.

    Raises:
      UserError: the mean, std, activation or number of heads differs.
    """
    for key in ("image_mean", "image_std", "act", "heads"):
        if before and before.get(key) != now[key]:
            raise UserError(
                f"--workdir {workdir}: was trained with {key}={before.get(key)} of the backbone, but "
                f"{now['name']} now has {now[key]}: restore its files, or choose another --workdir"
            )
    if before and before.get("revision") != now["revision"]:
        previous = before.get("revision") or "another place"
        print_once(
            f"{workdir} was trained on {before['name']} at {previous}, now it is "
            f"{now['revision'] or now['name']}; config.backbone=NAME@COMMIT pins one in a new run"
        )


def check_data(before: Mapping[str, str] | None, now: Mapping[str, str], workdir: Path) -> None:
    """Rejects other data than that on which a run began, so that its results are of one data set.

    Args:
      before: the digests of the annotations in the checkpoint; None in old checkpoints.
      now: the current ones.
      workdir: the folder of the run, for messages.

    Raises:
      UserError: the people or captions of a split differ.
    """
    if changed := changed_splits(before, now):
        raise UserError(
            f"--workdir {workdir}: was trained on other data: {changed} had other people or captions; give "
            "the same data again, or choose another --workdir"
        )


def changed_splits(before: Mapping[str, str] | None, now: Mapping[str, str]) -> str:
    """Names the splits whose annotations differ; empty without any, or if `before` is unknown."""
    if not before:
        return ""
    return " and ".join(name for name in {**before, **now} if before.get(name) != now.get(name))


def print_summary(results: dict, workdir: Path, data_dir: str = "") -> None:
    """Prints the test scores before and after training, the files, and a next command to try.

    Args:
      results: the content of results.json.
      workdir: the run's folder.
      data_dir: the folder of the data, empty for the default one.
    """
    percent = 100 * results["trainable_params"] / results["total_params"]
    print(
        f"\n{results['method']} on {results['dataset']}: {results['steps']} steps in "
        f"{results['seconds']:.0f} s, "
        f"{results['trainable_params']:,} of {results['total_params']:,} parameters trained ({percent:.1f} %)"
    )
    print(f"test, text to image, before:       {format_scores(results['zero_shot']['test'])}")
    print(f"test, text to image, last epoch:   {format_scores(results['final']['test'])}")
    for split, note in (("val", ""), ("test", "  (chosen on test, as most papers do)")):
        if best := results[f"best_on_{split}"]:
            label = f"test, best epoch on {split} ({best['epoch']:>3}):"
            print(f"{label:<35}{format_scores(best['test'])}{note}")
    print(
        f"\nwritten to {workdir}: report.html, report.png, results.json, metrics.jsonl, checkpoints/, model/"
    )
    print(f"use:   tpr_jax.from_pretrained('{workdir}/model')")
    print(f"look:  open {workdir}/report.html in a browser")
    print(f"next:  {next_command(results['method'], results['dataset'], workdir, data_dir)}")


def next_command(method: str, dataset: str, workdir: Path, data_dir: str = "") -> str:
    """Returns a command to try after a run: what its data and method make the most natural next step.

    Args:
      method: the name of the run's method.
      dataset: a key of `datasets.DATASETS`.
      workdir: the run's folder.
      data_dir: the folder of the data, empty for the default one.
    """
    if DATASETS[dataset].is_custom:  # your own photos: search them
        words = ["search", "index", _own_photos(dataset, data_dir), "--index", f"{workdir}/index"]
        words += ["--model", f"{workdir}/model"]
    elif dataset != "mini_pedes":
        words = ["visualize", "grid", "--model", f"{workdir}/model", "--out", f"{workdir}/grid"]
        words += ["--dataset", dataset, *(["--data_dir", data_dir] if data_dir else [])]
    elif method == "parallel_adapter":
        words = [
            "compare",
            "configs/dm_adapter.py",
            "configs/parallel_adapter.py",
            "--workdir",
            "runs/compare",
        ]
    else:
        words = ["main", "--config", "configs/parallel_adapter.py", "--workdir", "runs/parallel_adapter"]
    return shlex.join(["python", "-m", f"tpr_jax.{words[0]}", *words[1:]])


def _own_photos(dataset: str, data_dir: str) -> str:
    """Returns what to index: the folder, or its annotation if that has the boxes of people."""
    if not data_dir:
        return "PHOTOS"
    try:
        path = annotation_path(dataset, data_dir)
        has_boxes = any(isinstance(fields, dict) and fields["box"] for _, fields in read_rows(path))
    except UserError:  # it has changed since the run began
        return data_dir
    return path if has_boxes else data_dir


def format_scores(scores: dict) -> str:
    """Returns the text-to-image scores in one line."""
    return "  ".join(f"{key} {value:.2f}" for key, value in scores["t2i"].items())
