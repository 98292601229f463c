"""Executes a command for the runs in a process of its own, one at a time in each folder."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from tpr_jax.compare import runs as compare_runs
from tpr_jax.compare.runs import ComparisonRun


def execute(
    command: Sequence[str], folder: Path, run: ComparisonRun, asked_to_stop: Callable[[], bool]
) -> tuple[int | None, str]:
    """Executes a command that writes to a folder, with its output in log.txt there.

    The process inherits the lock of the folder: if this process is killed, it continues, and the next one
    waits until it has ended instead of competing for the devices.

    Args:
      command: the words of the command.
      folder: the folder, which is created.
      run: any of the runs; only its lock is used.
      asked_to_stop: when it returns true, the process is sent SIGTERM.

    Returns:
      The exit code, None if it was asked to stop; and the last line of its output.

    Raises:
      UserError: the folder cannot be written.
    """

    def say(message: str) -> None:
        print(f"    {message}", flush=True)

    with compare_runs.lock_run(dataclasses.replace(run, folder=folder), asked_to_stop, say) as locked:
        if locked is None or asked_to_stop():
            return None, "not started"
        return compare_runs.run_logged(command, folder / "log.txt", asked_to_stop, locked.lock_fd)
