"""A sparse mixture of low-rank experts on both products of each MLP, one router a product.

python -m tpr_jax.main --config configs/lora_moe.py --workdir runs/lora_moe
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {
        "name": "lora_moe",
        "targets": ("fc", "proj"),  # of q, k, v, out, fc, proj
        "rank": 8,
        "num_experts": 6,
        "top_k": 2,
        "router": "input",  # 'blend' and 'sum': with DM-Adapter's domain prompt
        "scale": 1.0,
    }
    config.losses.update({"sdm": 1.0, "balance": 0.5})
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
        config.method.rank = 4
    return config
