"""Trains or evaluates what a config describes.

    python -m tpr_jax.main --config configs/NAME.py[:DATASET] --workdir DIR [--mode train|eval]
                           [--config.KEY=VALUE ...]
                           [--coordinator HOST:PORT --num_processes N --process_id I]

The last line is for several processes as one run, where no cluster says so (SLURM, Open MPI, GKE and Cloud
TPU do); --peer_timeout SECONDS is how long they may take to come.

This file reads the command line; see `train/loop.py` for the run itself.
"""

# ruff: noqa: E402 (signals are caught before the imports that take seconds)

import shlex
import signal
import sys

from tpr_jax.utils import signals


def _early_ends(argv: list[str]) -> dict[int, tuple[int, str]]:
    """What a signal ends with before the command has begun."""
    again = shlex.join(["python", "-m", "tpr_jax.main", *argv[1:]])
    return {
        signal.SIGTERM: (0, f"stopped; resume with: {again}"),
        signal.SIGINT: (130, "error: interrupted; the same command goes on from its newest checkpoint"),
    }


if __name__ == "__main__":
    signals.exit_immediately(_early_ends(sys.argv))

import errno
import inspect
import os
import re
import runpy
from pathlib import Path

# XLA and TensorFlow write notices of their own to the terminal; errors still come through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from absl import flags
from ml_collections import ConfigDict, config_flags

from tpr_jax.cli import parser
from tpr_jax.config import bundled
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.debug import shrink
from tpr_jax.distributed import cluster, processes
from tpr_jax.errors import UserError, describe_disk_limit
from tpr_jax.perf.allocator import keep_freed_memory
from tpr_jax.utils.signals import Stopped
from tpr_jax.utils.streams import quiet_when_closed

MODES = ("train", "eval")


def parse(argv: list[str]):
    """(config, workdir, mode) of a command line; what cannot be used is a UserError that names it."""
    return _read(argv)[:3]


def _read(argv: list[str]):
    """(config, workdir, mode, the other flags)."""
    argv = _with_path(parser.expand_flags(argv, ("config", "workdir")))
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "where everything is written", flag_values=values)
    flags.DEFINE_string("mode", "train", "train or eval", flag_values=values)
    flags.DEFINE_string("coordinator", None, "host:port of process 0", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "how many there are", flag_values=values)
    flags.DEFINE_integer("process_id", None, "which of them this is, from 0", flag_values=values)
    flags.DEFINE_float(
        "peer_timeout", processes.TIMEOUT, "seconds they have to come", lower_bound=1, flag_values=values
    )
    flags.DEFINE_bool("help", False, "show this help", flag_values=values)
    asked = [a for a in argv[1:] if a in ("-h", "--help")]
    if asked or len(argv) == 1:
        print(__doc__.strip())
        raise SystemExit(0 if asked else 2)
    alone = _read_config(argv)
    if alone is not None:
        _check_keys(argv, alone)
    try:
        rest = values(argv)
        config = holder.value
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    if rest[1:]:
        raise UserError(f"argument '{rest[1]}' is not understood: settings are written --config.KEY=VALUE")
    if config is None:
        raise UserError("--config is missing: give one, such as --config configs/dm_adapter.py")
    parser.expand_config(config)
    if values.mode not in MODES:
        raise UserError(f"--mode {values.mode} is unknown: {config_lib.nearest(values.mode, MODES)}")
    if not values.workdir:
        raise UserError(
            "--workdir is missing: name a folder for what is written, such as --workdir runs/demo"
        )
    if "://" in values.workdir:
        raise UserError(
            f"--workdir {values.workdir} is no folder: mount the bucket as one, as launch/README.md says, "
            "and give that"
        )
    if config.get("debug"):
        shrink(config, _given(argv))
    config_lib.check(config)
    return config, Path(values.workdir), values.mode, values


def _read_config(argv: list[str]) -> ConfigDict | None:
    """What get_config of the --config file returns, before any --config.KEY."""
    name = _config_argument(argv)
    path, _, dataset = name.partition(":")
    if not name:
        return None
    if not Path(path).is_file():
        known = sorted(map(str, Path(path).parent.glob("*.py"))) or bundled.names()
        raise UserError(f"--config {path}: no such file; {config_lib.nearest(path, known)}")
    try:
        get_config = runpy.run_path(path)["get_config"]
        takes = inspect.signature(get_config).parameters
        # An ablation's argument is a row of its table, which it checks itself.
        if dataset and dataset not in config_lib.DATASETS and "row" not in takes:
            near = config_lib.nearest(dataset, config_lib.DATASETS)
            raise UserError(f"data set '{dataset}' is unknown: {near}")
        config = get_config(dataset) if dataset and takes else get_config()
    except UserError as error:
        raise UserError(f"--config {name}: {error}") from error
    except KeyError as error:
        if error.args != ("get_config",):
            raise UserError(f"--config {path}: cannot be used (KeyError: {error}): mend the file") from error
        raise UserError(f"--config {path}: has no function get_config; see configs/dm_adapter.py") from error
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"--config {path}: cannot be used ({what}): mend the file") from error
    if dataset and not takes:
        raise UserError(f"--config {name}: this config has one data set only: leave out ':{dataset}'")
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config {path}: get_config gives a {type(config).__name__}: let it begin with "
            "tpr_jax.config.base() and return that"
        )
    return config


def _check_keys(argv: list[str], config: ConfigDict) -> None:
    """Compares every --config.KEY with the keys that the config file has."""
    known = config_lib.keys(config)
    for key in _given(argv):
        if key not in known:
            raise UserError(f"config.{key} is unknown: {config_lib.nearest_key(key, known)}")


def _given(argv: list[str]) -> list[str]:
    """The KEYs of every --config.KEY."""
    found = (re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in argv[1:])
    return [match[1] for match in found if match]


def _with_path(argv: list[str]) -> list[str]:
    """The same with `configs/NAME.py` where it is found, which may be inside the installed package."""
    name = _config_argument(argv)
    found, ways = bundled.find(name), (name, f"--config={name}", f"-config={name}")
    return [word.replace(name, found) if name and word in ways else word for word in argv]


def _config_argument(argv: list[str]) -> str:
    """The value of --config, empty where there is none."""
    for i, argument in enumerate(argv):
        if re.match(r"--?config=", argument):
            return argument.partition("=")[2]
        if argument in ("--config", "-config"):
            return argv[i + 1] if i + 1 < len(argv) else ""
    return ""


def run(argv: list[str]) -> None:
    """Parses, then trains or evaluates."""
    with signals.raise_stopped("stopped") as told:
        config, workdir, mode, said = _read(argv)
        if config.debug:
            print("debug: a few small steps, to see that everything runs; the numbers say nothing")
        peers = cluster.find_here(said.coordinator, said.num_processes, said.process_id)
        keep_freed_memory()
        with processes.initialized(
            peers, said.peer_timeout, workdir, lambda error: verdict(told(error), argv)
        ):
            _run_here(config, workdir, mode)


def _run_here(config: ConfigDict, workdir: Path, mode: str) -> None:
    """Trains or evaluates as one of the processes that are joined."""
    # Once more: JAX takes SIGTERM for itself where it joins processes.
    with signals.raise_stopped("stopped"):
        # These import JAX and TensorFlow: after the command line is known to be sound.
        from tpr_jax.train import agreement, results
        from tpr_jax.train import loop as train

        told = agreement.of_command(config_lib.to_plain(config), mode)
        agreement.check_same("command", told, "start the same command on all")
        if mode == "eval":
            results.evaluate_run(config, workdir)
        else:
            train.train(config, workdir)


def explain_and_exit(command, argv: list[str]) -> None:
    """Runs a command; a mistake that a user can mend ends it with one line and exit code 2.

    Each line that it prints is seen at once, through a pipe too; without a reader there it ends, exit code
    141.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's has no buffer to set
        sys.stdout.reconfigure(line_buffering=True)
    with quiet_when_closed():
        _explain(command, argv)


def _explain(command, argv: list[str]) -> None:
    try:
        command(argv)
    except (Exception, KeyboardInterrupt) as error:
        code, line = verdict(error, argv)
        if not line:
            raise
        print(line, file=sys.stderr if code else sys.stdout)
        raise SystemExit(code) from None


def verdict(error: BaseException, argv: list[str]) -> tuple[int, str]:
    """(exit code, what to say) of an error; nothing to say of one that is no user's to mend."""
    if isinstance(error, UserError):
        return 2, f"error: {error}"
    if isinstance(error, Stopped) and error.number == signal.SIGTERM:
        again = shlex.join(["python", "-m", "tpr_jax.main", *argv[1:]])
        return 0, f"{error}; resume with: {again}"
    if isinstance(error, Stopped):
        return 2, f"error: {error}: the same command goes on"
    if isinstance(error, KeyboardInterrupt):
        return 130, "error: interrupted; the same command goes on from its newest checkpoint"
    if isinstance(error, OSError) and (line := describe_disk_limit(error)):
        return 2, f"error: {line}"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS):
        what = f"{error.filename or 'a file'}: {error.strerror.lower()}"
        return 2, f"error: {what}: see that this account may use that disk or bucket"
    return 1, ""


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
