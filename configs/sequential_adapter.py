"""Adapters after the attention and the MLP of each block (Houlsby et al., ICML 2019).

python -m tpr_jax.main --config configs/sequential_adapter.py --workdir runs/sequential_adapter
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(dataset, method={"name": "sequential_adapter", "reduction": 8, "scale": 1.0})
