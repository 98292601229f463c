"""One parallel adapter in the mixture's place: the first row of DM-Adapter's ablation.

python -m tpr_jax.main --config configs/parallel_adapter.py --workdir runs/parallel_adapter
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {"name": "parallel_adapter", "reduction": 8, "scales": (0.1, 4.0)}
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
        config.method.scales = (1.0, 1.0)  # as in dm_adapter.py
    return config
