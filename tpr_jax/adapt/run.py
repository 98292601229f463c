"""Adapts a model from beginning to end: reads, labels, takes steps, saves."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
from tqdm import tqdm

from tpr_jax.adapt.objectives import pseudo_labels
from tpr_jax.adapt.task import Adaptation, Log, Settings, adapted_model, make_batch, prepare
from tpr_jax.errors import UserError
from tpr_jax.train import checkpoint
from tpr_jax.train.state import TrainState
from tpr_jax.utils import locking, signals
from tpr_jax.utils.files import write_json

RECORD = "adapt.json"  # in the folder: the settings, and once it is complete, what was done
CHECKPOINTS = "checkpoints"
ROUND = 20  # steps between two updates of the labels, and two checkpoints


def adapt(settings: Settings, out: Path, log: Log = print) -> dict:
    """Adapts a model and saves it; resumes an interrupted adaptation of the same settings.

    Args:
      settings: what to do.
      out: the folder of the new model; new, empty, or of an interrupted adaptation.
      log: called with lines about what is done.

    Returns:
      The record of the adaptation, as adapt.json has it.

    Raises:
      UserError: an input cannot be used, or the folder has other contents.
      Stopped: SIGINT or SIGTERM was received; the next run resumes from the last saved step.
    """
    if (done := check_out(out, settings)) is not None:
        log(f"{out}: is complete already")
        return done
    with locking.hold(out, "--out", "adapting a model in this folder"), signals.catch_signals() as preemption:
        try:
            return _adapt(settings, out, preemption, log)
        except KeyboardInterrupt:
            if preemption.again or not preemption:
                raise
            raise signals.Stopped(preemption.number, "stopped; every finished round is saved") from None


def _adapt(settings: Settings, out: Path, preemption: signals.PreemptionSignal, log: Log) -> dict:
    """Does the work of `adapt`, in a folder that no other process writes."""
    with preemption.raise_immediately():
        task, facts = prepare(settings, log)
    write_json(out / RECORD, {"settings": dataclasses.asdict(settings)})
    state = take_steps(task, out / CHECKPOINTS, preemption, log)
    record = {"settings": dataclasses.asdict(settings), **facts}
    model = adapted_model(task, jax.device_get(state.trainable))
    model.save_pretrained(out, adapted=record)
    write_json(out / RECORD, record)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return record


def check_out(out: Path, settings: Settings) -> dict | None:
    """Returns the record of a complete adaptation in the folder, None if there is none yet.

    Raises:
      UserError: the folder has other contents, or an adaptation with other settings.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise UserError(f"--out {out}: is a file; give a new folder")
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}  # locks, temporary files
    if not names:
        return None
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        known = dict(record["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"--out {out}: holds {min(names)}, which is not of an adaptation; give a new folder"
        ) from None
    for key, value in dataclasses.asdict(settings).items():
        if known.get(key) != value:
            raise UserError(
                f"--out {out}: holds an adaptation with --{key} {known.get(key)}, not {value}; give a new "
                "folder, or the old value"
            )
    return record if "photos" in record else None


def take_steps(task: Adaptation, folder: Path, preemption: signals.PreemptionSignal, log: Log) -> TrainState:
    """Takes all steps that are left, and saves the state after every round.

    Raises:
      Stopped: a signal arrived.
      UserError: an update was not finite, or the checkpoints cannot be written.
    """
    settings = task.settings
    manager = checkpoint.open_manager(folder, keep=1)
    state = TrainState.create(task.optimizer, jax.tree.map(jnp.array, task.trainable))
    if restored := checkpoint.restore_newest(manager, state.as_dict()):
        state = TrainState.from_dict(restored.state)
        log(f"resumed at step {restored.step} of {settings.steps}")
    first = int(state.step)
    with tqdm(
        total=settings.steps, initial=first, desc="adapt", unit="step", dynamic_ncols=True, disable=None
    ) as bar:
        for start in range(first, settings.steps, ROUND):
            with preemption.raise_immediately():
                texts, photos = task.features(state.trainable)
                text_labels, photo_labels = pseudo_labels(texts, photos, 1 / settings.temperature)
            targets = {"texts": texts, "photos": photos}
            for step in range(start, min(start + ROUND, settings.steps)):
                batch = make_batch(task, step, text_labels, photo_labels)
                state, metrics = task.update(state, task.frozen, batch, targets)
                bar.update()
                if preemption:
                    raise signals.Stopped(preemption.number, f"stopped; step {start} is saved")
            if int(state.bad_step) >= 0:
                raise UserError(
                    f"--lr {settings.lr}: the update of step {int(state.bad_step) + 1} was not finite; "
                    "give a lower --lr and another --out"
                )
            checkpoint.save(manager, int(state.step), state.as_dict(), {"loss": float(metrics["loss"])})
            checkpoint.finish(manager)
            tqdm.write(f"step {int(state.step)}: loss {float(metrics['loss']):.3f}")
    return state
