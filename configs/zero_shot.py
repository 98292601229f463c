"""CLIP as it is: nothing trains, only `--mode eval` makes sense.

python -m tpr_jax.main --config configs/zero_shot.py --workdir runs/zero_shot --mode eval
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
    return config
