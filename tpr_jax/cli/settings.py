"""Words of a command line that set a key of all configs: `--config.KEY=VALUE`."""

import re
from collections.abc import Sequence

from tpr_jax.cli.parser import Parser
from tpr_jax.errors import UserError


def split_settings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the settings of a command line, and its other words without the program's name."""
    settings = [word for word in argv[1:] if re.match(r"--?(no)?config\.", word)]
    return settings, [word for word in argv[1:] if word not in settings]


def key_of(setting: str) -> str:
    """Returns the key that a setting sets.

    Raises:
      UserError: the setting has no value.
    """
    key, equals, _ = setting.partition("=")
    if not equals and not key.lstrip("-").startswith("no"):
        raise UserError(f"{setting}: settings are written --config.KEY=VALUE")
    return key.partition("config.")[2]


def add_settings(parser: Parser) -> None:
    """Adds the settings to the help, in one word, as they must be written."""
    parser.add_argument(
        "--config.KEY=VALUE", action="store_true", help="a key of all configs; can be repeated"
    )
