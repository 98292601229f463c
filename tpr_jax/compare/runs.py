"""The runs of a comparison: which there are, and how one is run, in a process of its own."""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tpr_jax.compare import outcome
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.flags import parse_flags
from tpr_jax.errors import UserError
from tpr_jax.models.methods import METHODS
from tpr_jax.train import writer
from tpr_jax.utils import locking
from tpr_jax.utils.files import remove_leftovers, write_json

PROGRAM = (sys.executable, "-m", "tpr_jax.main")


def plan(configs: Sequence[str], seeds: int, workdir: Path, settings: Sequence[str]) -> list[dict]:
    """The runs in their order, all configs with the first seed first.

    A run is {"name", "seed", "folder", "mode", "flags" (of tpr_jax.main), "config" (as JSON gives it back)}.
    Methods with nothing to train are only scored (mode "eval").

    Raises:
      UserError: a config or setting cannot be used, is given twice, or a folder holds another run.
    """
    names = names_of(configs)
    runs = []
    for seed in range(seeds):
        for config_path, name in zip(configs, names, strict=True):
            folder = workdir / folder_of(name) / f"seed_{seed}"
            flags = ["--config", config_path, "--workdir", str(folder), *settings, f"--config.seed={seed}"]
            try:
                config, _, _ = parse_flags(["main", *flags])
            except UserError as error:
                named = config_path.partition(":")[0] in str(error)
                raise error if named else UserError(f"{config_path}: {error}") from error
            method = METHODS[config.method.name](**config_lib.method_settings(config))
            run = {
                "name": name,
                "seed": seed,
                "folder": folder,
                "mode": "train" if method.trainable else "eval",
                "config": config_lib.to_plain(config),
            }
            runs.append({**run, "flags": [*flags, "--mode", run["mode"]]})
    for run in runs:
        _check_folder(run)
    return runs


def names_of(configs: Sequence[str]) -> list[str]:
    """The file's name and the setting behind the colon; as many folders before it as tell it from the others.

    Raises:
      UserError: the same config twice.
    """
    for config in configs:
        if configs.count(config) > 1:
            raise UserError(f"{config} is given twice: leave one out")
    split = [(Path(path).absolute().with_suffix("").parts, data) for path, _, data in map(_split, configs)]

    def name(i: int, parts: int) -> str:
        path, data = split[i]
        return "/".join(path[-parts:]) + (f":{data}" if data else "")

    names = []
    for i, config in enumerate(configs):
        for parts in range(1, len(split[i][0])):
            others = [name(j, parts) for j in range(len(configs)) if j != i]
            if folder_of(name(i, parts)) not in map(folder_of, others):
                names.append(name(i, parts))
                break
        else:
            raise UserError(f"{config} is given twice: leave one out")
    return names


def _split(config: str) -> tuple[str, str, str]:
    return config.partition(":")


def folder_of(name: str) -> str:
    """A config's name as a name of a folder."""
    return name.replace("/", "-").replace(":", "-")


def _check_folder(run: dict) -> None:
    """Refuses a folder whose run cannot become the one that is wanted."""
    folder, wanted = run["folder"], run["config"]["total_steps"]
    if (folder / "config.json").exists():
        defaults = config_lib.to_plain(config_lib.base())
        writer.check_workdir(folder, run["config"], config_lib.FREE_ON_RESUME, defaults)
    last = max((row.get("step", 0) for row in outcome.rows_of(folder)), default=0)
    if 0 < wanted < last:
        raise UserError(
            f"{folder} was trained for {last} steps, more than config.total_steps={wanted}: choose another "
            "--workdir or more steps"
        )


def execute(run: dict, asked_to_stop: Callable[[], bool]) -> tuple[int | None, str]:
    """Runs it in a process of its own: (exit code, the last line it wrote), also kept in `compare.json`.

    All it writes goes to `log.txt` of its folder, behind what is there. When `asked_to_stop()` says so, it is
    sent SIGTERM, upon which it saves and ends; the exit code is then None and nothing is kept.
    """
    folder = run["folder"]
    command = [*PROGRAM, *run["flags"]]
    with (folder / "log.txt").open("a+b") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        start = log.tell()
        # In a session of its own: Ctrl-C reaches this process only, which passes it on once.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[run["lock"]] if "lock" in run else [],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        stopping = False
        try:
            while child.poll() is None:
                time.sleep(0.1)
                if asked_to_stop() and not stopping:
                    child.terminate()
                    stopping = True
        except BaseException:  # a second Ctrl-C: at once
            child.terminate()
            child.wait()
            raise
        log.seek(start)
        said = _last_words(log.read().decode(errors="replace"))
    if stopping:
        return None, said
    if child.returncode < 0:
        said = f"ended by signal {-child.returncode} (memory?); it had written: {said}"
    code = child.returncode
    if code == 0 and outcome.scores_of(outcome.results_of(run)) is None:
        code, said = 1, f"ended without results that can be read in {folder}"
    write_json(folder / outcome.MARK, {"exit_code": code, "said": said, "config": run["config"]})
    return code, said


def _last_words(log: str) -> str:
    """The last line that tells of an error, or else the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it wrote nothing"])[-1]


@contextlib.contextmanager
def alone(run: dict, asked_to_stop: Callable[[], bool], say: Callable[[str], None]) -> Iterator[dict]:
    """The run with its folder locked, once no other process is at it.

    The lock is passed on to the run's process: should this one be killed, the run goes on by itself, and who
    comes next waits until it has ended. Gives None where it was asked to stop meanwhile.
    """
    try:
        run["folder"].mkdir(parents=True, exist_ok=True)
        file = (run["folder"] / "lock").open("a")
    except OSError as error:
        where = run["folder"]
        raise UserError(f"{where} cannot be written ({error.strerror}): choose another --workdir") from error
    with file:
        told = False
        while locking.try_lock(file) is False:
            if asked_to_stop():
                yield None
                return
            if not told:
                say("another process is at it: waiting until that ends")
                told = True
            time.sleep(0.2)
        remove_leftovers(run["folder"], [outcome.MARK])
        yield {**run, "lock": file.fileno()}
