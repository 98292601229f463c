"""Adapters behind attention and MLP of each block (Houlsby et al., ICML 2019).

python -m tpr_jax.main --config configs/sequential_adapter.py --workdir runs/sequential_adapter
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {"name": "sequential_adapter", "reduction": 8, "scale": 1.0}
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
    return config
