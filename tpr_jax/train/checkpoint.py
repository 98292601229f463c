"""Saving and resuming with Orbax: `latest` to go on from, `best` to keep.

A checkpoint holds the trainable collections, the optimizer's state and the step, and as JSON what the loop
needs to know; never CLIP's frozen weights. Writing happens in the background and under a temporary name, so a
checkpoint either is whole or does not exist. Checksums of arrays and notes lie among the notes, and are
compared when they are read: what was damaged since is not restored.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from tpr_jax.distributed import processes
from tpr_jax.errors import UserError, describe_disk_limit
from tpr_jax.utils import checksums

# Orbax reports every file it opens, and every error with the tracebacks of its threads; the error itself
# comes back from `save`, `finish` or `restore_newest` all the same.
logging.getLogger("absl").setLevel(logging.CRITICAL)
# The same once more from each array that failed after the first, which nobody waits for any longer.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", r"coroutine 'async_serialize.* was never awaited", RuntimeWarning)


def _without_late_calls(report: Callable) -> Callable:
    """A hook for exceptions that nobody can catch, which leaves out those of writes that Orbax gave up.

    Orbax writes all arrays at a time, and when the first of them fails it closes the event loop over the
    others. TensorStore's threads then find it closed, as often as there were arrays left, until the very end
    of the process.
    """

    def report_others(unraisable) -> None:
        if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
            report(unraisable)

    return report_others


sys.unraisablehook = _without_late_calls(sys.unraisablehook)


def open_manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    """A manager of the checkpoints in `folder` that keeps the newest `keep`.

    Managers that are open at a time, over several processes, need folders of different names.
    """
    # Two managers that save the same step at a time would else meet at barriers of the same names, and take
    # one another's for their own.
    several = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=Path(folder).name)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=True, multiprocessing_options=several
    )
    return ocp.CheckpointManager(Path(folder).absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, state: dict, notes: dict) -> None:
    """Begins to write `state` (arrays) and `notes` (JSON) as step `step`; returns at once."""
    notes = checksums.with_checksums(notes, checksums.tree_checksums(state))
    with _explained(manager):
        manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes))
        )


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits until all that was begun is on disk."""
    with _explained(manager):
        manager.wait_until_finished()


def restore_newest(manager: ocp.CheckpointManager, like: dict) -> tuple[int, dict, dict, list[int]] | None:
    """(step, state, notes, broken steps) of the newest readable checkpoint, or None where there is none.

    `like` is a state with the shapes, types and shardings to restore into. A checkpoint that cannot be read,
    or is not as it was saved, is passed over for the one before; if none of those there can be read, that is
    an error.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    broken, reason = [], ""
    for step in steps:
        why, found = "", None
        try:
            found = manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted), notes=ocp.args.JsonRestore()),
            )
            notes, sums = checksums.split_checksums(found["notes"])
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file.
            why = _first_line(error)
        # Each process reads its own part, and the checksums need all of them: they have to agree.
        why = "".join(processes.all_gather_dict({"why": why} if why else {}).values())
        if not why and sums is not None:
            try:
                checksums.check_arrays(found["state"], sums)
            except ValueError as error:
                why = str(error)
        if not why:
            return step, found["state"], notes, broken
        broken.append(step)
        reason = why
    if not broken:
        return None
    raise UserError(
        f"none of the checkpoints in {manager.directory} can be read (steps {broken}; {reason[:200]}): "
        "move the folder away to start anew"
    )


def read_notes(manager: ocp.CheckpointManager, step: int) -> dict:
    """Returns the notes of one checkpoint, without its arrays.

    Raises:
      ValueError: they cannot be read, or are not those that were saved.
    """
    try:
        found = manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))
        return checksums.split_checksums(found["notes"])[0]
    except Exception as error:
        raise ValueError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class _explained:
    """Turns a full disk, or one that may not be written, which TensorStore reports in its own words, into a
    one-line error."""

    def __init__(self, manager):
        self.folder = manager.directory

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None and (line := describe_disk_limit(error, self.folder)):
            raise UserError(line) from error
        if error is not None and ("PERMISSION_DENIED" in str(error) or "Permission denied" in str(error)):
            raise UserError(
                f"{self.folder} cannot be written (permission denied): see that this account may write that "
                "disk or bucket, and run the same command to go on"
            ) from error
