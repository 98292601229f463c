"""Helpers for the tests of the files in `configs/`."""

import runpy
from pathlib import Path

from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax import optim
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.flags import parse_flags
from tpr_jax.models.config import NO_HEADS, Heads

FOLDER = Path(__file__).parent.parent / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
ABLATIONS = [name for name in NAMES if name.startswith("ablation")]
PRETRAIN = ["pretrain_mini", "pretrain_street"]  # they take no data set
DATASETS = ("mini_pedes", "cuhk_pedes", "icfg_pedes", "rstp_reid")


def rows_of(name: str, dataset: str) -> list[str]:
    return list(runpy.run_path(str(FOLDER / f"{name}.py"))["rows"](dataset))


def parsed(name: str, argument: str = ""):
    path = str(FOLDER / f"{name}.py")
    return parse_flags(["main", "--config", f"{path}:{argument}" if argument else path, "--workdir", "w"])[0]


def split(variables: dict, config) -> tuple[dict, dict]:
    """Returns (trained, frozen)."""
    method = config_lib.make_method(config)
    return optim.split_model(variables, method)


def heads_of(config) -> Heads:
    if config.losses.id:
        return Heads(4, config.mlm_depth)
    return NO_HEADS
