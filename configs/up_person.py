"""UP-Person (2025): S-Prefix, LoRA on keys and values, and L-Adapters beside both LayerNorms.

python -m tpr_jax.main --config configs/up_person.py --workdir runs/up_person
python -m tpr_jax.main --config configs/up_person.py:cuhk_pedes --workdir runs/cuhk --config.data_dir=DIR
"""

from ml_collections.config_dict import placeholder

from tpr_jax import config as tpr_config

# The paper's learning rate, rank and prefix length for each data set. MiniPEDES: see configs/README.md.
SETTINGS = {"icfg_pedes": (1e-3, 32, 14), "rstp_reid": (1e-4, 16, 2), "mini_pedes": (1e-2, 8, 10)}


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    lr, rank, prefix = SETTINGS.get(dataset, (1e-3, 32, 10))
    return tpr_config.recipe(
        dataset,
        method={
            "name": "up_person",
            "rank": rank,
            "prefix": prefix,
            "reduction": 8,
            "version": "paper",  # S-Prefix's scalar is initially 10; 'released': 100
            "use": ("prefix", "lora", "adapter"),
            "vanilla": False,  # a prefix without S-Prefix's scalar
            "depth_lora": placeholder(int),  # the first N blocks; unset: all
            "depth_prefix": placeholder(int),
            "depth_adapter": 0,  # the blocks from N on
        },
        optimizer={"lr": lr, "bias_lr_factor": 1.0},  # one rate for all parameters
        mini_pedes={"optimizer.lr": lr},
    )
