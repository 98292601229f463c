"""BitFit (ACL 2022): trains only the biases.

python -m tpr_jax.main --config configs/bitfit.py --workdir runs/bitfit
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(
        dataset,
        method={"name": "bitfit"},
        optimizer={"bias_lr_factor": 1.0},  # all trained parameters are biases: `lr` is their rate
    )
