"""The configs that come along, for a working folder that has no `configs/` of its own."""

from pathlib import Path


def folder() -> Path:
    """`configs/`: inside an installed package, beside it in the repository."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def names() -> list[str]:
    """All of them, as they are named on a command line: `configs/dm_adapter.py`, ..."""
    return sorted(f"configs/{path.name}" for path in folder().glob("*.py"))


def find(config: str) -> str:
    """`configs/NAME.py[:ARGUMENT]` with the path under which that file is there.

    A file of the working folder comes first; what is neither there nor bundled stays as it is.
    """
    path, colon, argument = config.partition(":")
    if path in names() and not Path(path).exists():
        path = str(folder() / Path(path).name)
    return path + colon + argument
