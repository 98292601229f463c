"""Shared code of all command lines: one-line errors, and `~` for the home directory in paths.

A shell expands `~` only at the beginning of a word: not in --index=~/photos, and not within quotes.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tpr_jax.errors import UserError
from tpr_jax.utils.suggest import nearest


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description, and adds its default to the help of each option."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help or "", action.default
        has_none = default is None or isinstance(default, bool) or default in ([], argparse.SUPPRESS)
        if not action.option_strings or has_none or "default" in text:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{text}; default: {shown.replace('%', '%%')}"


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors as a `UserError`. `prog` is `python -m MODULE`.

    The help of every command has one form: the usage, one sentence that says what the command does, examples,
    and all arguments with their defaults.

    Attributes:
      examples: command lines, which the help shows below the description.
    """

    def __init__(self, *args, examples: Sequence[str] = (), formatter_class=HelpFormatter, **settings):
        super().__init__(*args, formatter_class=formatter_class, **settings)
        self.examples = tuple(examples)
        if examples:
            self.description = "\n".join([f"{self.description}\n", *(f"    {line}" for line in examples)])

    def parse_known_args(self, args: Iterable[str] | None = None, namespace=None):
        """Parses as argparse does, but reports a mistyped option first, with the nearest known one."""
        words = sys.argv[1:] if args is None else list(args)
        self._check_options(words)
        return super().parse_known_args(words, namespace)

    def _check_options(self, words: Sequence[str]) -> None:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for word in words:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return  # what follows are values, or the arguments of a subcommand
            name = word.partition("=")[0]
            if not word.startswith("--") or " " in name:  # argparse takes words with spaces as values
                continue
            if not any(option == name or (self.allow_abbrev and option.startswith(name)) for option in known):
                self.error(f"{name} is unknown: {nearest(name, known)}")

    def _check_value(self, action: argparse.Action, value) -> None:
        if action.choices is not None and value not in action.choices:
            hint = nearest(str(value), [str(choice) for choice in action.choices])
            raise argparse.ArgumentError(action, f"{str(value)!r} is unknown: {hint}")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        # Also called for a default, which may be empty.
        if action.type in (path, folder) and not arg_string.strip() and arg_string != action.default:
            raise argparse.ArgumentError(action, f"the value {arg_string!r} is empty: give a path or a name")
        return super()._get_value(action, arg_string)

    def error(self, message: str) -> NoReturn:
        """Raises a UserError that refers to --help."""
        command = " ".join(self.prog.split()[:3])  # a subcommand's parser appends its name
        raise UserError(f"{message}; see {command} --help")


def add_flags(parser: Parser, flags: Iterable[Any], metavars: Mapping[str, str]) -> None:
    """Adds absl's flags to a parser that only prints the help, so that it has the form of all others.

    Args:
      parser: the parser.
      flags: the flags, with absl's `name`, `help` and `default`.
      metavars: what stands for the value of each flag that takes one.
    """
    for flag in flags:
        if isinstance(flag.default, bool):
            text = f"{flag.help}; default: {'yes' if flag.default else 'no'}"
            parser.add_argument(f"--{flag.name}", f"--no{flag.name}", action="store_true", help=text)
        else:
            default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
            parser.add_argument(
                f"--{flag.name}", default=default, metavar=metavars[flag.name], help=flag.help
            )


def add_config_flags(parser: Parser) -> None:
    """Adds the flags of a config to a parser that only prints the help."""
    parser.add_argument(
        "--config",
        metavar="configs/NAME.py[:DATASET]",
        help="what to run, which is required; without DATASET on MiniPEDES",
    )
    # One word, so that the help shows it as it must be written.
    parser.add_argument("--config.KEY=VALUE", action="store_true", help="a key of it; can be repeated")


def path(text: str) -> str:
    """Expands `~` and `~name`; the `type` of every argument that is a path or a hub id."""
    return os.path.expanduser(text)


def folder(text: str) -> Path:
    """Expands `~` and `~name`; the `type` of arguments that are a `Path`."""
    return Path(path(text))
