"""Shared code of all command lines: one-line errors, and `~` for the home directory in paths.

A shell expands `~` only at the beginning of a word: not in --index=~/photos, and not within quotes.
"""

import argparse
import os
from pathlib import Path
from typing import NoReturn

from tpr_jax.errors import UserError


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
