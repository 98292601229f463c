"""DM-Adapter (AAAI 2025): a sparse mixture of adapters beside each MLP, with a domain-aware router.

    python -m tpr_jax.main --config configs/dm_adapter.py --workdir runs/demo
    python -m tpr_jax.main --config configs/dm_adapter.py:cuhk_pedes --workdir runs/cuhk --config.data_dir=DIR

Without the name of a data set it trains the bundled clip-mini on MiniPEDES (rendered, bundled) within minutes
on a CPU; with `cuhk_pedes`, `icfg_pedes` or `rstp_reid` it is the paper's recipe on CLIP ViT-B/16.
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(
        dataset,
        method={
            "name": "dm_adapter",
            "num_experts": 6,
            "top_k": 2,
            "reduction": 8,
            "router": "blend",  # 'sum': as in the paper; 'input': without the domain prompt
            "scales": (0.1, 4.0),  # vision, text
        },
        losses={"sdm": 1.0, "balance": 0.5},
        mini_pedes={"method.scales": (1.0, 1.0)},  # the paper's 0.1 for vision changes little within minutes
    )
