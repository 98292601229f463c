"""Prompt tokens alone, in every block of both towers, mapped from one to the other or not.

    python -m tpr_jax.main --config configs/prompts.py --workdir runs/prompts
    python -m tpr_jax.main --config configs/prompts.py --workdir runs/prompts_2 \
        --config.method.direction=to_vision
"""

from ml_collections.config_dict import placeholder

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {
        "name": "prompts",
        "length": 4,  # tokens a direction
        "depth": placeholder(int),  # blocks with tokens of their own; unset: all
        "direction": "both",  # 'to_vision', 'to_text' or 'none'
    }
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
    return config
