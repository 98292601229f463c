"""Finds the data sets that a run, and the runs that it began from, were trained on."""

import json
from collections.abc import Mapping
from pathlib import Path


def trained_on(config: Mapping, depth: int = 8) -> tuple[str, ...]:
    """Returns the data sets of a run and, in their order, of the runs that it began from.

    Args:
      config: the run's config.json.
      depth: the number of earlier runs to follow.
    """
    names = [config["dataset"], *(entry[0] for entry in config["mix"])]
    backbone = config.get("backbone")
    if backbone and depth and not config.get("from_scratch"):
        names += of_backbone(backbone, depth - 1)
    return tuple(dict.fromkeys(names))


def of_backbone(backbone: str, depth: int = 8) -> tuple[str, ...]:
    """Returns the same for a backbone: empty unless it is the folder of a run, or one inside it."""
    folder = Path(backbone)
    if not folder.is_dir():  # a name, whose parent would be the current folder
        return ()
    config = read_run_config(folder) or read_run_config(folder.parent)
    return trained_on(config, depth) if config else ()


def read_run_config(folder: Path) -> dict | None:
    """Reads a run's config.json; None if there is none, or one of something else."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or not {"dataset", "mix", "method", "losses"} <= config.keys():
        return None
    mixed = config["mix"] if isinstance(config["mix"], list) else [None]
    names = [config["dataset"], *(entry[0] if isinstance(entry, list) and entry else None for entry in mixed)]
    return config if all(isinstance(name, str) for name in names) else None
