"""Measures how long a run takes on this machine, by a few of its steps.

    python -m tpr_jax.reproduce.measure --config configs/NAME.py[:DATASET] --workdir DIR
        [--mode train|eval] [--config.KEY=VALUE ...]

The arguments are those of `tpr_jax.main`. It writes DIR/measured.json and trains nothing that is kept.
`tpr_jax.reproduce` calls it in a process of its own, so that the devices are free for the runs afterward.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.config.flags import parse_command
from tpr_jax.utils.files import write_json

MEASURED = "measured.json"
# The timed steps end when they have taken this long, but not before the second one.
SECONDS = 20.0
MAX_STEPS = 60


def measure(config: ConfigDict, mode: str) -> dict:
    """Measures a run of a config.

    Args:
      config: the config of the run.
      mode: "train" or "eval".

    Returns:
      The fields of `estimate.Measurement`, and `environment` and `weights`.

    Raises:
      UserError: an input cannot be used.
    """
    # These import JAX and TensorFlow, which the command line does not need.
    from tpr_jax.perf import host
    from tpr_jax.train import setup
    from tpr_jax.weights import backbone

    started = time.monotonic()
    run = setup.prepare(config, to_train=mode == "train")
    images = {split: len(records.image_paths) for split, records in run.splits.items()}
    measured = {
        "mode": mode,
        "steps": 0,
        "step_seconds": 0.0,
        "encoded_images": encoded_images(config, images, mode, steps_per_epoch=1, steps=0),
        "image_seconds": _measure_encoding(run),
        "test_images": images["test"],
        "environment": host.describe(run.mesh.devices.flatten().tolist()),
        "weights": {
            "name": run.backbone.name,
            "revision": run.backbone.revision,
            "sha256": None if config.from_scratch else backbone.sha256(run.backbone.path),
        },
    }
    if mode == "train":
        training = setup.prepare_training(run)
        measured["steps"] = training.last_step
        measured["step_seconds"] = _measure_steps(run, training)
        measured["encoded_images"] = encoded_images(
            config, images, mode, training.steps_per_epoch, training.last_step
        )
    return measured | {"startup_seconds": time.monotonic() - started}


def encoded_images(
    config: ConfigDict, images: dict[str, int], mode: str, steps_per_epoch: int, steps: int
) -> int:
    """Returns how many images a run encodes, together with their captions, to score its states.

    Args:
      config: the config of the run.
      images: the number of images of each split.
      mode: "train" or "eval".
      steps_per_epoch: the number of steps of an epoch.
      steps: the number of steps of the run.
    """
    val, test = images.get("val", 0), images["test"]
    if mode == "eval":
        return val + test
    epochs = -(-steps // steps_per_epoch)  # an epoch that is cut short is scored too
    scored = -(-epochs // config.eval_every) if config.eval_every else 1
    each = val + (test if config.eval_test_each_time else 0)
    # Test is also scored before training, at the end, and with the state that is best on val.
    return scored * each + (3 if val else 2) * test


def _measure_encoding(run) -> float:
    """Returns the seconds in which one image and its captions are encoded and scored."""
    import numpy as np

    from tpr_jax.data.records import select_images
    from tpr_jax.train.evaluate import Evaluator

    test = run.splits["test"]
    few = select_images(test, np.arange(len(test.image_paths)) < run.config.eval_batch_size)
    evaluator = Evaluator(dataclasses.replace(run, splits={"test": few}))

    def score() -> None:
        evaluator.score_split(run.variables(run.trainable), "test")

    score()  # compiles
    return _seconds(score) / len(few.image_paths)


def _measure_steps(run, training) -> float:
    """Returns the seconds that a train step takes, its input included."""
    import jax

    from tpr_jax.data.pipeline import stream
    from tpr_jax.distributed import sharding
    from tpr_jax.train.state import TrainState

    initial = TrainState.create(training.optimizer, run.trainable)
    state = sharding.shard_params(run.mesh, initial)
    feed = stream(training.batches, training.steps_per_epoch)

    def step(state: TrainState) -> TrainState:
        rows = {key: array for key, array in next(feed).items() if key != "index"}
        batch = sharding.shard_batch(run.mesh, rows, run.config.batch_size)
        return jax.block_until_ready(training.update(state, run.frozen, batch)[0])

    state = step(state)  # compiles; meanwhile some batches are prepared
    done, started = 0, time.monotonic()
    while done < MAX_STEPS and (done < 2 or time.monotonic() - started < SECONDS):
        state = step(state)
        done += 1
    return (time.monotonic() - started) / done


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def run(argv: list[str]) -> None:
    """Measures what the command line says, and writes measured.json.

    Raises:
      UserError: an argument or input cannot be used.
    """
    from tpr_jax.perf import compilation_cache
    from tpr_jax.perf.allocator import keep_freed_memory

    command = parse_command(argv)
    keep_freed_memory()
    # The runs afterward find the compiled programs.
    (compilation_cache.enable if command.compilation_cache else compilation_cache.disable)()
    write_json(Path(command.workdir) / MEASURED, measure(command.config, command.mode))


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
