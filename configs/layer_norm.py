"""Trains only the scales and biases of the LayerNorms.

python -m tpr_jax.main --config configs/layer_norm.py --workdir runs/layer_norm
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(dataset, method={"name": "layer_norm"})
