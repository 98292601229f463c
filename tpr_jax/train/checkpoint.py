"""Saves and restores training states with Orbax: `latest` to resume from, `best` to keep.

A checkpoint holds the trainable collections, the optimizer's state and the step as arrays, and the run's
progress as JSON; never CLIP's frozen weights. Orbax writes in the background under a temporary name, so a
checkpoint is either complete or does not exist. The notes include checksums of the arrays and of the notes,
which are verified on reading, so that a damaged checkpoint is not restored.
"""

import contextlib
import functools
import logging
import sys
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp

from tpr_jax.distributed import processes
from tpr_jax.errors import UserError, describe_disk_limit
from tpr_jax.train.state import TrainState
from tpr_jax.utils import checksums


class Restored(NamedTuple):
    """The result of `restore_newest`.

    Attributes:
      step: the step of the checkpoint.
      state: the arrays.
      notes: the JSON object beside them.
      unreadable: the newer steps that could not be read.
    """

    step: int
    state: dict
    notes: dict
    unreadable: list[int]


class Checkpointer:
    """The checkpoints of one run: the newest two in `latest`, and the best on `val` in `best`.

    One manager for both would delete the newest state where it is not among the best.
    """

    def __init__(self, folder: Path):
        self.latest = open_manager(folder / "latest", keep=2)
        self.best = open_manager(folder / "best", keep=1)

    def restore_latest(self, like: TrainState) -> Restored | None:
        """Restores the newest readable state; see `restore_newest`."""
        return restore_newest(self.latest, like.as_dict())

    def restore_best(self, like: TrainState) -> Restored | None:
        """Restores the best state; see `restore_newest`."""
        return restore_newest(self.best, like.as_dict())

    def save_latest(self, state: TrainState, notes: dict) -> None:
        """Begins to save a state to resume from.

        Waits for `best` first: a run that resumes here could otherwise miss the best state before it.
        """
        finish(self.best)
        save(self.latest, int(state.step), state.as_dict(), notes)

    def save_best(self, step: int, state: TrainState, notes: dict) -> None:
        """Begins to save a state as the best, unless it is there already.

        Waits for `latest` first: `best` is never ahead of what a run resumes from.
        """
        if step not in self.best.all_steps():
            finish(self.latest)
            save(self.best, step, state.as_dict(), notes)


def open_manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    """Returns a manager of the checkpoints in `folder` that keeps the newest `keep`.

    Managers that are open at the same time in several processes need folders of different names.
    """
    _silence_orbax()
    # Without a prefix, two managers that save the same step at the same time use barriers of the same names
    # and mistake each other's for their own.
    several = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=Path(folder).name)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=True, multiprocessing_options=several
    )
    return ocp.CheckpointManager(Path(folder).absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, state: dict, notes: dict) -> None:
    """Begins to save `state` (arrays) and `notes` (JSON) as a step; returns immediately."""
    notes = checksums.with_checksums(notes, checksums.tree_checksums(state))
    with _disk_errors_explained(manager):
        manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes))
        )


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits until everything that `save` began is on disk."""
    with _disk_errors_explained(manager):
        manager.wait_until_finished()


def restore_newest(manager: ocp.CheckpointManager, like: dict) -> Restored | None:
    """Restores the newest readable checkpoint, or returns None if there is none.

    A checkpoint that cannot be read or does not match its checksums is skipped in favor of the one before it.

    Args:
      manager: the manager of the checkpoints.
      like: a state with the shapes, types and shardings to restore into.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    unreadable, reason = [], ""
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            state, notes = _restore(manager, step, shapes)
        except ValueError as error:
            unreadable.append(step)
            reason = str(error)
            continue
        return Restored(step, state, notes, unreadable)
    if not unreadable:
        return None
    raise UserError(
        f"none of the checkpoints in {manager.directory} can be read (steps {unreadable}; {reason[:200]}): "
        "move the folder away to start over"
    )


def _restore(manager: ocp.CheckpointManager, step: int, shapes: dict) -> tuple[dict, dict]:
    """Returns (state, notes) of one checkpoint.

    Raises:
      ValueError: a process cannot read it, or its checksums do not match; raised in all processes.
    """
    restored, notes, sums, reason = {}, {}, None, ""
    try:
        restored = manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes), notes=ocp.args.JsonRestore()),
        )
        notes, sums = checksums.split_checksums(restored["notes"])
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file.
        reason = _first_line(error)
    # Each process reads its own shards, and the checksums need all shards: the processes have to agree.
    if reasons := processes.all_gather_dict({"why": reason} if reason else {}):
        raise ValueError("".join(reasons.values()))
    if sums is not None:
        checksums.check_arrays(restored["state"], sums)
    return restored["state"], notes


def read_notes(manager: ocp.CheckpointManager, step: int) -> dict:
    """Returns the notes of one checkpoint, without its arrays.

    Raises:
      ValueError: they cannot be read, or their checksum does not match.
    """
    try:
        restored = manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))
        return checksums.split_checksums(restored["notes"])[0]
    except Exception as error:
        raise ValueError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@contextlib.contextmanager
def _disk_errors_explained(manager: ocp.CheckpointManager) -> Generator[None, None, None]:
    """Turns TensorStore's errors about a full or read-only disk into a `UserError` of one line."""
    folder = manager.directory
    try:
        yield
    except Exception as error:
        if line := describe_disk_limit(error, folder):
            raise UserError(line) from error
        if "PERMISSION_DENIED" in str(error) or "Permission denied" in str(error):
            raise UserError(
                f"{folder} cannot be written (permission denied): check that this account may write to that "
                "disk or bucket, and rerun the same command to resume"
            ) from error
        raise


@functools.cache
def _silence_orbax() -> None:
    """Hides what Orbax prints about errors that `save`, `finish` and `restore_newest` raise.

    This lasts until the process ends, because Orbax's threads may report errors until then.
    """
    # Orbax logs every file it opens, and every error with the tracebacks of its threads.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # asyncio logs the error of each further array, which nothing awaits any longer.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", r"coroutine 'async_serialize.* was never awaited", RuntimeWarning)
    sys.unraisablehook = _without_late_calls(sys.unraisablehook)


def _without_late_calls(report: Callable) -> Callable:
    """Returns a `sys.unraisablehook` that drops the exceptions of writes that Orbax abandoned.

    Orbax writes all arrays concurrently, and when the first fails it closes the event loop. TensorStore's
    threads then find it closed, once for each remaining array, until the end of the process.
    """

    def report_others(unraisable) -> None:
        if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
            report(unraisable)

    return report_others
