"""Only the scales and biases of the LayerNorms.

python -m tpr_jax.main --config configs/layer_norm.py --workdir runs/layer_norm
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {"name": "layer_norm"}
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
    return config
