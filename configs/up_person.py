"""UP-Person (2025): S-Prefix, LoRA on keys and values, and L-Adapters beside both LayerNorms.

python -m tpr_jax.main --config configs/up_person.py --workdir runs/up_person
python -m tpr_jax.main --config configs/up_person.py:cuhk_pedes --workdir runs/cuhk --config.data_dir=DIR
"""

from ml_collections.config_dict import placeholder

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    # The paper's rate, rank and length for each data set. MiniPEDES: see configs/README.md.
    lr, rank, prefix = {
        "icfg_pedes": (1e-3, 32, 14),
        "rstp_reid": (1e-4, 16, 2),
        "mini_pedes": (1e-2, 8, 10),
    }.get(dataset, (1e-3, 32, 10))
    config.method = {
        "name": "up_person",
        "rank": rank,
        "prefix": prefix,
        "reduction": 8,
        "version": "paper",  # S-Prefix's scalar starts at 10; 'released': at 100
        "use": ("prefix", "lora", "adapter"),
        "vanilla": False,  # a prefix without S-Prefix's scalar
        "depth_lora": placeholder(int),  # the first so many blocks; unset: all
        "depth_prefix": placeholder(int),
        "depth_adapter": 0,  # the blocks from this one on
    }
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
    config.optimizer.lr = lr
    config.optimizer.bias_lr_factor = 1.0  # one rate for all
    return config
