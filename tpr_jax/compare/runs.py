"""Plans the runs of a comparison and executes each in a process of its own."""

import contextlib
import dataclasses
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tpr_jax.compare import outcome
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.flags import parse_flags
from tpr_jax.errors import UserError
from tpr_jax.models.methods import METHODS
from tpr_jax.train import writer
from tpr_jax.utils import locking
from tpr_jax.utils.files import remove_leftovers, write_json

PROGRAM = (sys.executable, "-m", "tpr_jax.main")


@dataclass(frozen=True)
class ComparisonRun:
    """One config with one seed.

    Attributes:
      name: the config's name in the tables.
      seed: the seed.
      folder: the run's workdir.
      mode: "train", or "eval" for a method without trainable parameters.
      flags: the command line of tpr_jax.main.
      config: the config as JSON returns it.
      lock_fd: the file descriptor of the folder's lock, once `lock_run` holds it.
    """

    name: str
    seed: int
    folder: Path
    mode: Literal["train", "eval"]
    flags: tuple[str, ...]
    config: dict
    lock_fd: int | None = None


def plan(configs: Sequence[str], seeds: int, workdir: Path, settings: Sequence[str]) -> list[ComparisonRun]:
    """Returns the runs in their order: all configs with seed 0, then all with seed 1, and so on.

    Args:
      configs: configs as `--config` takes them.
      seeds: the number of seeds.
      workdir: the folder of the comparison.
      settings: `--config.KEY=VALUE` flags of every run.

    Raises:
      UserError: a config or setting cannot be used or is given twice, or a folder holds another run.
    """
    names = config_names(configs)
    runs = []
    for seed in range(seeds):
        for config_path, name in zip(configs, names, strict=True):
            folder = workdir / folder_name(name) / f"seed_{seed}"
            flags = ["--config", config_path, "--workdir", str(folder), *settings, f"--config.seed={seed}"]
            try:
                config, _, _ = parse_flags(["main", *flags])
            except UserError as error:
                names_config = config_path.partition(":")[0] in str(error)
                raise error if names_config else UserError(f"{config_path}: {error}") from error
            method = METHODS[config.method.name](**config_lib.method_settings(config))
            mode = "train" if method.trainable else "eval"
            all_flags = (*flags, "--mode", mode)
            runs.append(ComparisonRun(name, seed, folder, mode, all_flags, config_lib.to_plain(config)))
    for run in runs:
        _check_folder(run)
    return runs


def config_names(configs: Sequence[str]) -> list[str]:
    """Returns short unique names: file stem and data set, with as many parent folders as needed.

    Raises:
      UserError: a config is given twice.
    """
    for config in configs:
        if configs.count(config) > 1:
            raise UserError(f"{config} is given twice: leave one out")
    split = []
    for config in configs:
        path, _, dataset = config.partition(":")
        split.append((Path(path).absolute().with_suffix("").parts, dataset))

    def name(i: int, depth: int) -> str:
        parts, dataset = split[i]
        return "/".join(parts[-depth:]) + (f":{dataset}" if dataset else "")

    names = []
    for i, config in enumerate(configs):
        for depth in range(1, len(split[i][0])):
            others = [name(j, depth) for j in range(len(configs)) if j != i]
            if folder_name(name(i, depth)) not in map(folder_name, others):
                names.append(name(i, depth))
                break
        else:
            raise UserError(f"{config} is given twice: leave one out")
    return names


def folder_name(name: str) -> str:
    """Turns a config's name into a folder's name."""
    return name.replace("/", "-").replace(":", "-")


def _check_folder(run: ComparisonRun) -> None:
    """Raises a UserError if the folder holds a run that cannot be resumed with this config."""
    total_steps = run.config["total_steps"]
    if (run.folder / "config.json").exists():
        defaults = config_lib.to_plain(config_lib.base())
        writer.check_workdir(run.folder, run.config, config_lib.FREE_ON_RESUME, defaults)
    last = max((row.get("step", 0) for row in outcome.read_metrics(run.folder)), default=0)
    if 0 < total_steps < last:
        raise UserError(
            f"{run.folder} was trained for {last} steps, more than config.total_steps={total_steps}: choose "
            "another --workdir or more steps"
        )


def execute(run: ComparisonRun, asked_to_stop: Callable[[], bool]) -> tuple[int | None, str]:
    """Executes a run in a process of its own.

    Appends its output to `log.txt` in its folder and records how it ended in `compare.json`. When
    `asked_to_stop()` is true, sends SIGTERM, upon which the run saves and ends; nothing is recorded then.

    Returns:
      The exit code, None if it was asked to stop; and the last line of its output.
    """
    code, message = run_logged([*PROGRAM, *run.flags], run.folder / "log.txt", asked_to_stop, run.lock_fd)
    if code is None:
        return None, message
    if code == 0 and not outcome.is_readable(outcome.read_results(run)):
        code, message = 1, f"ended without readable results in {run.folder}"
    write_json(run.folder / outcome.RECORD, {"exit_code": code, "said": message, "config": run.config})
    return code, message


def run_logged(
    command: Sequence[str], log_file: Path, asked_to_stop: Callable[[], bool], lock_fd: int | None = None
) -> tuple[int | None, str]:
    """Executes a command in a process of its own, and appends its output to a file.

    Args:
      command: the words of the command.
      log_file: the file, in a folder that exists.
      asked_to_stop: when it returns true, the process is sent SIGTERM.
      lock_fd: the file descriptor of a lock that the process inherits.

    Returns:
      The exit code, None if it was asked to stop; and the last line of its output.
    """
    with log_file.open("a+b") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        start = log.tell()
        # A session of its own: Ctrl-C reaches only this process, which forwards it once.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[] if lock_fd is None else [lock_fd],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        stopping = _wait(child, asked_to_stop)
        log.seek(start)
        message = _last_message(log.read().decode(errors="replace"))
    if stopping:
        return None, message
    if child.returncode < 0:
        message = f"ended by signal {-child.returncode} (out of memory?); its last line: {message}"
    return child.returncode, message


def _wait(child: subprocess.Popen, asked_to_stop: Callable[[], bool]) -> bool:
    """Waits for a process; returns whether it was sent SIGTERM because `asked_to_stop()` was true."""
    stopping = False
    try:
        while child.poll() is None:
            time.sleep(0.1)
            if asked_to_stop() and not stopping:
                child.terminate()
                stopping = True
    except BaseException:  # a second Ctrl-C
        child.terminate()
        child.wait()
        raise
    return stopping


def _last_message(log: str) -> str:
    """Returns the last line that starts with "error: ", or else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no output"])[-1]


@contextlib.contextmanager
def lock_run(
    run: ComparisonRun, asked_to_stop: Callable[[], bool], say: Callable[[str], None]
) -> Generator[ComparisonRun | None, None, None]:
    """Locks a run's folder, after waiting for any other process that holds it.

    The run's process inherits the lock: if this process is killed, the run continues, and the next comparison
    waits until it has ended.

    Yields:
      The run with its lock, or None if `asked_to_stop()` became true while waiting.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        file = (run.folder / "lock").open("a")
    except OSError as error:
        raise UserError(
            f"{run.folder} cannot be written ({error.strerror}): choose another --workdir"
        ) from error
    with file:
        waiting = False
        while locking.try_lock(file) is False:
            if asked_to_stop():
                yield None
                return
            if not waiting:
                say("another process runs it: waiting until that ends")
                waiting = True
            time.sleep(0.2)
        remove_leftovers(run.folder, [outcome.RECORD])
        yield dataclasses.replace(run, lock_fd=file.fileno())


def run_if_incomplete(
    planned: ComparisonRun, asked_to_stop: Callable[[], bool], direction: str
) -> tuple[int | None, str]:
    """Executes a run unless it is complete.

    Args:
      planned: the run.
      asked_to_stop: returns whether this process was asked to stop.
      direction: the direction of the score in the message, "t2i" or "i2t".

    Returns:
      The exit code, None if it was stopped; and a message.
    """

    def say(message: str) -> None:
        print(message, end=" ... ", flush=True)

    with lock_run(planned, asked_to_stop, say) as locked:
        if locked is None or asked_to_stop():
            return None, "not started"
        done = outcome.is_complete(locked)
        if not done:
            code, message = execute(locked, asked_to_stop)
            if code is None:
                return None, message
            if code:
                return code, f"FAILED (exit code {code}): {message}\n    see {planned.folder / 'log.txt'}"
        scores = outcome.read_outcome(locked).scores
        if scores is None:
            return 1, f"FAILED: the results in {planned.folder} are gone or were changed after the run ended"
        return 0, f"R@1 {scores[direction]['R1']:.2f}" + (", already done" if done else "")
