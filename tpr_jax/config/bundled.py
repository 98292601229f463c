"""Finds the bundled configs, for a working directory without its own `configs/`."""

from pathlib import Path


def folder() -> Path:
    """Returns the folder `configs/`: inside an installed package, or in the root of the repository."""
    packaged = Path(__file__).parents[1] / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"


def names() -> list[str]:
    """Returns all bundled configs, as a command line names them: `configs/dm_adapter.py`, ..."""
    return sorted(f"configs/{path.name}" for path in folder().glob("*.py"))


def find(config: str) -> str:
    """Replaces the path in `configs/NAME.py[:ARGUMENT]` by that of the bundled file, if it is one.

    A file in the working directory takes precedence; other names are returned unchanged.
    """
    path, colon, argument = config.partition(":")
    if path in names() and not Path(path).exists():
        path = str(folder() / Path(path).name)
    return path + colon + argument
