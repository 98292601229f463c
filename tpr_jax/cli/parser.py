"""What all command lines share: mistakes in one line, and `~` for the home folder.

A shell expands `~` at the beginning of a word only, not in --index=~/photos, nor in quotes.
"""

import argparse
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from tpr_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """Mistakes are one line, as everywhere. `prog` is `python -m MODULE`, which says where the help is."""

    def error(self, message: str):
        command = " ".join(self.prog.split()[:3])  # a subcommand's parser has its name behind
        raise UserError(f"{message}; see {command} --help")


def path(text: str) -> str:
    """Expands `~` and `~name` in front of a path; the `type` of every argument that is one, or a hub id."""
    return os.path.expanduser(text)


def folder(text: str) -> Path:
    """As `path`, for arguments that are a `Path`."""
    return Path(path(text))


def expand_flags(argv: Sequence[str], names: Collection[str]) -> list[str]:
    """Expands the paths among absl's flags: the values of those with these names, as --NAME=X or --NAME X."""
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


def expand_config(config) -> None:
    """Expands the paths in a run's config, wherever they come from; what is no text is left to its check."""
    for key in ("data_dir", "backbone"):
        if isinstance(config.get(key), str):
            config[key] = path(config[key])
    mixed = config.get("mix")
    if isinstance(mixed, tuple) and all(isinstance(entry, tuple) for entry in mixed):
        config.mix = tuple(
            tuple(path(x) if at == 1 and isinstance(x, str) else x for at, x in enumerate(entry))
            for entry in mixed
        )
