"""Sets the address of the project in the notebooks, which install from it and link to its pages.

    python -m tools.set_address https://github.com/OWNER/NAME

The present address is the line of notebooks/address.txt.
"""

import re
import sys
from pathlib import Path

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cli.parser import Parser
from tpr_jax.errors import UserError
from tpr_jax.utils.files import write_text

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
GITHUB = "https://github.com/"


def set_address(new: str, folder: Path = NOTEBOOKS) -> list[Path]:
    """Replaces the address in all notebooks of a folder and in its address.txt; returns the changed files.

    Raises:
      UserError: it is not the address of a repository on GitHub, which Colab needs.
    """
    if not re.fullmatch(rf"{GITHUB}[\w.-]+/[\w.-]+", new) or new.endswith((".git", "/")):
        raise UserError(f"{new}: is not an address such as {GITHUB}OWNER/NAME")
    record = folder / "address.txt"
    old = record.read_text().strip()
    changed = []
    for path in [*sorted(folder.glob("*.ipynb")), record]:
        text = path.read_text(encoding="utf-8")
        # Colab's links have the owner and the name only.
        parts = (old.removeprefix(GITHUB), new.removeprefix(GITHUB))
        replaced = re.sub(rf"(github(?:\.com)?/){re.escape(parts[0])}(?![\w-])", rf"\g<1>{parts[1]}", text)
        if replaced != text:
            write_text(path, replaced)
            changed.append(path)
    return changed


def run(argv: list[str]) -> None:
    """Runs the command."""
    parser = Parser(prog="python -m tools.set_address", description=__doc__)
    parser.add_argument("address", metavar="ADDRESS", help="the address of the repository")
    for path in set_address(parser.parse_args(argv[1:]).address):
        print(path)


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
