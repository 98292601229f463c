"""Prompt tokens alone, in every block of both towers, mapped from one tower to the other or not.

    python -m tpr_jax.main --config configs/prompts.py --workdir runs/prompts
    python -m tpr_jax.main --config configs/prompts.py --workdir runs/prompts_2 \
        --config.method.direction=to_vision
"""

from ml_collections.config_dict import placeholder

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(
        dataset,
        method={
            "name": "prompts",
            "length": 4,  # tokens per direction
            "depth": placeholder(int),  # blocks with their own tokens; unset: all
            "direction": "both",  # 'to_vision', 'to_text' or 'none'
        },
    )
