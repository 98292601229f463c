"""Shared code of all command lines: one-line errors, and `~` for the home directory in paths.

A shell expands `~` only at the beginning of a word: not in --index=~/photos, and not within quotes.
"""

import argparse
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tpr_jax.errors import UserError

if TYPE_CHECKING:  # keeps startup fast
    from ml_collections import ConfigDict


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors as a `UserError`. `prog` is `python -m MODULE`."""

    def error(self, message: str) -> NoReturn:
        """Raises a UserError that refers to --help."""
        command = " ".join(self.prog.split()[:3])  # a subcommand's parser appends its name
        raise UserError(f"{message}; see {command} --help")


def path(text: str) -> str:
    """Expands `~` and `~name`; the `type` of every argument that is a path or a hub id."""
    return os.path.expanduser(text)


def folder(text: str) -> Path:
    """Expands `~` and `~name`; the `type` of arguments that are a `Path`."""
    return Path(path(text))


def expand_flags(argv: Sequence[str], names: Collection[str]) -> list[str]:
    """Expands the values of the absl flags with these names, given as --NAME=X or --NAME X."""
    expanded, is_value = [], False
    for word in argv:
        flag, equals, value = word.partition("=")
        is_flag = word.startswith("-") and flag.lstrip("-") in names
        if is_flag and equals:
            expanded.append(f"{flag}={path(value)}")
        else:
            expanded.append(path(word) if is_value else word)
        is_value = is_flag and not equals
    return expanded


def expand_config(config: "ConfigDict") -> None:
    """Expands the paths in a run's config, in place; values of another type are left to its validation."""
    for key in ("data_dir", "backbone"):
        if isinstance(config.get(key), str):
            config[key] = path(config[key])
    mix = config.get("mix")
    if isinstance(mix, tuple) and all(isinstance(entry, tuple) for entry in mix):
        config.mix = tuple(
            tuple(path(x) if i == 1 and isinstance(x, str) else x for i, x in enumerate(entry))
            for entry in mix
        )
