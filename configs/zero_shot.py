"""CLIP as it is. Nothing is trained, so run it with `--mode eval`.

python -m tpr_jax.main --config configs/zero_shot.py --workdir runs/zero_shot --mode eval
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(dataset, eval_test_each_time=False)
