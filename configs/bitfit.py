"""Only the biases (BitFit, ACL 2022).

python -m tpr_jax.main --config configs/bitfit.py --workdir runs/bitfit
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {"name": "bitfit"}
    config.optimizer.bias_lr_factor = 1.0  # all are biases: the rate is the one above
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
    return config
