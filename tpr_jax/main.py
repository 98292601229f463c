"""Trains or evaluates what a config describes.

    python -m tpr_jax.main --config configs/NAME.py[:DATASET] --workdir DIR [--mode train|eval]
                           [--config.KEY=VALUE ...]

This file reads the command line; see `train.py` for the run itself.
"""

import errno
import os
import sys
from pathlib import Path

# XLA and TensorFlow write notices of their own to the terminal; errors still come through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from absl import flags
from ml_collections import config_flags

from tpr_jax import config as config_lib
from tpr_jax.errors import UserError

MODES = ("train", "eval")


def parse(argv: list[str]):
    """(config, workdir, mode) of a command line; what cannot be used is a UserError that names it."""
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "where everything is written", flag_values=values)
    flags.DEFINE_string("mode", "train", "train or eval", flag_values=values)
    flags.DEFINE_bool("help", False, "show this help", flag_values=values)
    asked = [a for a in argv[1:] if a in ("-h", "--help")]
    if asked or len(argv) == 1:
        print(__doc__.strip())
        raise SystemExit(0 if asked else 2)
    _check_config_file(argv)
    _check_keys(argv)
    try:
        rest = values(argv)
        config = holder.value
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    if rest[1:]:
        raise UserError(f"argument '{rest[1]}' is not understood: settings are written --config.KEY=VALUE")
    if config is None:
        raise UserError("--config is missing: give one, such as --config configs/dm_adapter.py")
    if values.mode not in MODES:
        raise UserError(f"--mode {values.mode} is unknown: {config_lib.nearest(values.mode, MODES)}")
    if not values.workdir:
        raise UserError(
            "--workdir is missing: name a folder for what is written, such as --workdir runs/demo"
        )
    config_lib.check(config)
    return config, Path(values.workdir), values.mode


def _check_config_file(argv: list[str]) -> None:
    for i, argument in enumerate(argv):
        name = argument.partition("=")[2] if argument.startswith("--config=") else ""
        if argument == "--config" and i + 1 < len(argv):
            name = argv[i + 1]
        path, _, dataset = name.partition(":")
        if name and not Path(path).is_file():
            known = sorted(str(p) for p in Path(path).parent.glob("*.py"))
            raise UserError(f"--config {path}: no such file; {config_lib.nearest(path, known)}")
        if dataset and dataset not in config_lib.DATASETS:
            raise UserError(
                f"--config {name}: data set '{dataset}' is unknown: "
                f"{config_lib.nearest(dataset, config_lib.DATASETS)}"
            )


def _check_keys(argv: list[str]) -> None:
    """Compares every --config.KEY with the keys that the config file, read by itself, has."""
    alone = [a for a in argv if not a.startswith("--config.")]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=alone)
    try:
        values([argv[0], *_config_arguments(alone)])
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    if holder.value is None:
        return
    known = config_lib.keys(holder.value)
    for argument in argv[1:]:
        key = argument.removeprefix("--config.").partition("=")[0]
        if argument.startswith("--config.") and key not in known:
            raise UserError(f"config.{key} is unknown: {config_lib.nearest(key, known)}")


def _config_arguments(argv: list[str]) -> list[str]:
    """The part of a command line that names the config file."""
    for i, argument in enumerate(argv):
        if argument.startswith("--config="):
            return [argument]
        if argument == "--config":
            return argv[i : i + 2]
    return []


def run(argv: list[str]) -> None:
    """Parses, then trains or evaluates."""
    config, workdir, mode = parse(argv)
    from tpr_jax import train  # imports JAX and TensorFlow: after the command line is known to be sound

    if mode == "eval":
        train.evaluate_run(config, workdir)
    else:
        train.train(config, workdir)


def explain_and_exit(command, argv: list[str]) -> None:
    """Runs a command; a mistake that a user can mend ends it with one line and exit code 2."""
    try:
        command(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f" of {error.filename}" if error.filename else ""
        print(
            f"error: no space left on the disk{where}: free some and run the same command to go on",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
