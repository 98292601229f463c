"""Only the last linear map of each tower, on features that stay as they are.

python -m tpr_jax.main --config configs/linear_probe.py --workdir runs/linear_probe
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {"name": "linear_probe"}
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
        config.optimizer.lr = 1e-2
    return config
