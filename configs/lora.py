"""LoRA (ICLR 2022) alone, on any of CLIP's products; as DoRA too.

    python -m tpr_jax.main --config configs/lora.py --workdir runs/lora
    python -m tpr_jax.main --config configs/lora.py --workdir runs/lora_2 \
        --config.method.targets="('q','k','v','out','fc','proj')" --config.method.dora
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {
        "name": "lora",
        "targets": ("q", "v"),  # of q, k, v, out, fc, proj
        "rank": 16,
        "scale": "1.0",  # or learned, one scalar a target from 1; a text, so that a flag may be either
        "dora": False,
        "layers": (0, None),  # the blocks from the first to before the second; None: to the last
    }
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
        config.method.rank = 8
    return config
