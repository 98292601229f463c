"""Reads the command line of `tpr_jax.main`: a config file, overrides of its keys, and a few flags."""

import inspect
import os
import re
import runpy
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from tpr_jax.config import bundled
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.debug import shrink
from tpr_jax.distributed import TIMEOUT
from tpr_jax.errors import UserError

MODES = ("train", "eval")


class Command(NamedTuple):
    """A parsed and checked command line."""

    config: ConfigDict
    workdir: Path
    mode: str  # one of MODES
    coordinator: str | None  # host:port of process 0
    num_processes: int | None
    process_id: int | None
    peer_timeout: float  # seconds
    compilation_cache: bool  # whether compiled programs are kept for the next run
    initial: bool  # whether `--mode eval` scores the model before training
    vectors: str | None  # which shorter vectors `--mode eval` scores besides, see `train.vectors`
    rerank: str | None  # what `--mode eval` scores besides, see `metrics.rerank.parse_names`


def parse_flags(argv: Sequence[str]) -> tuple[ConfigDict, Path, str]:
    """Returns (config, workdir, mode) of a command line; see `parse_command`."""
    return parse_command(argv)[:3]


def parse_command(argv: Sequence[str]) -> Command:
    """Parses a command line of `tpr_jax.main`, without importing JAX.

    Args:
      argv: the command line, with the program's name first.

    Raises:
      UserError: an argument is missing, unknown or invalid; the message names it.
    """
    argv = _resolve_config_path(_expand_flags(argv, ("config", "workdir")))
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    define_flags(values)
    flags.DEFINE_bool("help", False, "show this help", flag_values=values)
    from_file = _read_config(argv)
    if from_file is not None:
        _check_keys(argv, from_file)
    try:
        positional = values(argv)[1:]
        config = holder.value
    except flags.UnrecognizedFlagError as error:
        name = error.flagname.partition("=")[0]
        hint = config_lib.nearest(f"--{name}", [f"--{flag}" for flag in values])
        raise UserError(f"--{name} is unknown: {hint}") from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    if positional:
        raise UserError(
            f"argument '{positional[0]}' is not understood: settings are written --config.KEY=VALUE"
        )
    if config is None:
        raise UserError("--config is missing: give one, such as --config configs/dm_adapter.py")
    _expand_config(config)
    _check_flags(values)
    if config.get("debug"):
        shrink(config, _overridden_keys(argv))
    config_lib.check(config)
    return Command(
        config=config,
        workdir=Path(values.workdir),
        mode=values.mode,
        coordinator=values.coordinator,
        num_processes=values.num_processes,
        process_id=values.process_id,
        peer_timeout=values.peer_timeout,
        compilation_cache=values.compilation_cache,
        initial=values.initial,
        vectors=values.vectors,
        rerank=values.rerank,
    )


def define_flags(values: flags.FlagValues) -> None:
    """Defines all flags but those of the config and --help."""
    strings = {
        "workdir": (None, "folder for the output, which is required; a run in it is resumed"),
        "mode": ("train", "train, or eval: score the best checkpoint of the run in --workdir"),
        "coordinator": (None, "address of the first of several processes; default: the cluster's"),
    }
    for name, (default, text) in strings.items():
        flags.DEFINE_string(name, default, text, flag_values=values)
    cluster = "; default: the cluster's"
    flags.DEFINE_integer("num_processes", None, f"number of processes{cluster}, else 1", flag_values=values)
    flags.DEFINE_integer("process_id", None, f"number of this process, from 0{cluster}", flag_values=values)
    flags.DEFINE_float(
        "peer_timeout",
        TIMEOUT,
        "seconds to wait for the other processes",
        lower_bound=1,
        flag_values=values,
    )
    keep = "keep compiled programs in ~/.cache/tpr_jax for the next start"
    flags.DEFINE_bool("compilation_cache", True, keep, flag_values=values)
    initial = "with --mode eval, score the model before training"
    flags.DEFINE_bool("initial", False, initial, flag_values=values)
    rerank = "with --mode eval, also score rankings that are changed after training; default: none"
    flags.DEFINE_string("rerank", None, rerank, flag_values=values)
    vectors = "with --mode eval, also score vectors cut to these sizes, in 32, 16 and 8 bits; default: none"
    flags.DEFINE_string("vectors", None, vectors, flag_values=values)


def _expand_flags(argv: Sequence[str], names: Collection[str]) -> list[str]:
    """Expands the values of the absl flags with these names, given as --NAME=X or --NAME X."""
    expanded, is_value = [], False
    for word in argv:
        flag, equals, value = word.partition("=")
        is_flag = word.startswith("-") and flag.lstrip("-") in names
        if is_flag and equals:
            expanded.append(f"{flag}={os.path.expanduser(value)}")
        else:
            expanded.append(os.path.expanduser(word) if is_value else word)
        is_value = is_flag and not equals
    return expanded


def _expand_config(config: ConfigDict) -> None:
    """Expands the paths in a run's config, in place; values of another type are left to its validation."""
    for section, key in ((config, "data_dir"), (config, "backbone"), (config.get("distill"), "teacher")):
        if isinstance(section, ConfigDict) and isinstance(section.get(key), str):
            section[key] = os.path.expanduser(section[key])
    mix = config.get("mix")
    if isinstance(mix, tuple) and all(isinstance(entry, tuple) for entry in mix):
        config.mix = tuple(
            tuple(os.path.expanduser(x) if i == 1 and isinstance(x, str) else x for i, x in enumerate(entry))
            for entry in mix
        )


def _check_flags(values: flags.FlagValues) -> None:
    """Checks --mode and --workdir."""
    if values.mode not in MODES:
        raise UserError(f"--mode {values.mode} is unknown: {config_lib.nearest(values.mode, MODES)}")
    if values.initial and values.mode != "eval":
        raise UserError("--initial needs --mode eval: leave one out, or add the other")
    for name in ("rerank", "vectors"):
        if values[name].value is not None and values.mode != "eval":
            raise UserError(f"--{name} needs --mode eval: leave one out, or add the other")
    if not values.workdir:
        raise UserError("--workdir is missing: name a folder for the output, such as --workdir runs/demo")
    if "://" in values.workdir:
        raise UserError(
            f"--workdir {values.workdir} is not a directory: mount the bucket as one, as in "
            "launch/README.md, and name its mount point"
        )


def _read_config(argv: Sequence[str]) -> ConfigDict | None:
    """Returns what `get_config` of the --config file returns, before any --config.KEY."""
    name = _config_argument(argv)
    path, _, dataset = name.partition(":")
    if not name:
        return None
    if not Path(path).is_file():
        known = sorted(map(str, Path(path).parent.glob("*.py"))) or bundled.names()
        raise UserError(f"--config {path}: no such file; {config_lib.nearest(path, known)}")
    config, takes_dataset = _call_get_config(name, path, dataset)
    if dataset and not takes_dataset:
        raise UserError(f"--config {name}: this config has one data set only: leave out ':{dataset}'")
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config {path}: get_config returns a {type(config).__name__}: start with "
            "tpr_jax.config.base() and return that"
        )
    return config


def _call_get_config(name: str, path: str, dataset: str) -> tuple[object, bool]:
    """Runs a config file; returns what its `get_config` returns, and whether that takes an argument."""
    try:
        get_config = runpy.run_path(path)["get_config"]
        parameters = inspect.signature(get_config).parameters
        # The argument of an ablation is a row of its table, which the ablation checks itself.
        if dataset and dataset not in config_lib.DATASETS and "row" not in parameters:
            near = config_lib.nearest(dataset, config_lib.DATASETS)
            raise UserError(f"data set '{dataset}' is unknown: {near}")
        return get_config(dataset) if dataset and parameters else get_config(), bool(parameters)
    except UserError as error:
        raise UserError(f"--config {name}: {error}") from error
    except KeyError as error:
        if error.args != ("get_config",):
            raise UserError(f"--config {path}: cannot be used (KeyError: {error}): fix the file") from error
        raise UserError(f"--config {path}: has no function get_config; see configs/dm_adapter.py") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"--config {path}: cannot be used ({reason}): fix the file") from error


def _check_keys(argv: Sequence[str], config: ConfigDict) -> None:
    """Compares every --config.KEY with the keys that the config file has."""
    known = config_lib.keys(config)
    for key in _overridden_keys(argv):
        if key not in known:
            raise UserError(f"config.{key} is unknown: {config_lib.nearest_key(key, known)}")


def _overridden_keys(argv: Sequence[str]) -> list[str]:
    """Returns the KEY of every --config.KEY."""
    matches = (re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in argv[1:])
    return [match[1] for match in matches if match]


def _resolve_config_path(argv: Sequence[str]) -> list[str]:
    """Replaces `configs/NAME.py` by the path where it is found, which may be inside the installed package."""
    name = _config_argument(argv)
    path, spellings = bundled.find(name), (name, f"--config={name}", f"-config={name}")
    return [word.replace(name, path) if name and word in spellings else word for word in argv]


def _config_argument(argv: Sequence[str]) -> str:
    """Returns the value of --config, or '' if there is none."""
    for i, argument in enumerate(argv):
        if re.match(r"--?config=", argument):
            return argument.partition("=")[2]
        if argument in ("--config", "-config"):
            return argv[i + 1] if i + 1 < len(argv) else ""
    return ""
