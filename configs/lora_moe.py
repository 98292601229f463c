"""A sparse mixture of low-rank experts on both matrix products of each MLP, with one router per product.

python -m tpr_jax.main --config configs/lora_moe.py --workdir runs/lora_moe
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(
        dataset,
        method={
            "name": "lora_moe",
            "targets": ("fc", "proj"),  # any of q, k, v, out, fc, proj
            "rank": 8,
            "num_experts": 6,
            "top_k": 2,
            "router": "input",  # 'blend' and 'sum': with DM-Adapter's domain prompt
            "scale": 1.0,
        },
        losses={"sdm": 1.0, "balance": 0.5},
        mini_pedes={"method.rank": 4},
    )
