"""CSKT (ICASSP 2024): prompts mapped between the towers in both directions, and an adapter beside each MLP.

python -m tpr_jax.main --config configs/cskt.py --workdir runs/cskt
python -m tpr_jax.main --config configs/cskt.py:cuhk_pedes --workdir runs/cuhk --config.data_dir=DIR
"""

from ml_collections.config_dict import placeholder

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(
        dataset,
        method={
            "name": "cskt",
            "prompts": 4,  # tokens per direction
            "depth": placeholder(int),  # blocks with their own prompts; unset: all
            "reduction": 8,
            "direction": "both",  # 'to_vision', 'to_text' or 'none'
            "scales": (0.1, 4.0),  # vision, text
        },
        mini_pedes={"method.scales": (1.0, 1.0), "optimizer.lr": 1e-2},  # scales as in dm_adapter.py
    )
