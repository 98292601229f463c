"""One parallel adapter instead of the mixture: the first row of DM-Adapter's ablation.

python -m tpr_jax.main --config configs/parallel_adapter.py --workdir runs/parallel_adapter
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(
        dataset,
        method={"name": "parallel_adapter", "reduction": 8, "scales": (0.1, 4.0)},
        mini_pedes={"method.scales": (1.0, 1.0)},  # as in dm_adapter.py
    )
