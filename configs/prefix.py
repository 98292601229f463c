"""Prefix tokens alone: UP-Person's S-Prefix, or the vanilla kind (Li and Liang, ACL 2021).

python -m tpr_jax.main --config configs/prefix.py --workdir runs/prefix
python -m tpr_jax.main --config configs/prefix.py --workdir runs/prefix_2 --config.method.vanilla
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {
        "name": "prefix",
        "length": 10,
        "gate": 10.0,  # where S-Prefix's scalar starts
        "vanilla": False,  # without S-Prefix's scalar
        "scaled": True,  # learned scalars on keys and values
    }
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
        config.optimizer.lr = 3e-2  # 36 % on val after an epoch; 20 % with 1e-2
    return config
