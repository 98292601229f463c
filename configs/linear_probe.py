"""Trains only the last linear projection of each tower, on frozen features.

python -m tpr_jax.main --config configs/linear_probe.py --workdir runs/linear_probe
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(dataset, method={"name": "linear_probe"}, mini_pedes={"optimizer.lr": 1e-2})
