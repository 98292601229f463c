"""LoRA (ICLR 2022) alone, on any of CLIP's matrix products; also as DoRA.

    python -m tpr_jax.main --config configs/lora.py --workdir runs/lora
    python -m tpr_jax.main --config configs/lora.py --workdir runs/lora_2 \
        --config.method.targets="('q','k','v','out','fc','proj')" --config.method.dora
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(
        dataset,
        method={
            "name": "lora",
            "targets": ("q", "v"),  # any of q, k, v, out, fc, proj
            "rank": 16,
            # A number, or 'learned': one scalar per target, initially 1. A string, so that a flag can set
            # both.
            "scale": "1.0",
            "dora": False,
            "layers": (0, None),  # blocks [first, end); None: to the last
        },
        mini_pedes={"method.rank": 8},
    )
