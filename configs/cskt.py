"""CSKT (ICASSP 2024): prompts mapped between the towers both ways, and an adapter beside each MLP.

python -m tpr_jax.main --config configs/cskt.py --workdir runs/cskt
python -m tpr_jax.main --config configs/cskt.py:cuhk_pedes --workdir runs/cuhk --config.data_dir=DIR
"""

from ml_collections.config_dict import placeholder

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {
        "name": "cskt",
        "prompts": 4,  # tokens a direction
        "depth": placeholder(int),  # blocks with prompts of their own; unset: all
        "reduction": 8,
        "direction": "both",  # 'to_vision', 'to_text' or 'none'
        "scales": (0.1, 4.0),  # vision, text
    }
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
        config.method.scales = (1.0, 1.0)  # as in dm_adapter.py
        config.optimizer.lr = 1e-2
    return config
