"""An example of a mixture: any parts in any slots, blocks and towers, prompts, some of CLIP's own weights.

    python -m tpr_jax.main --config configs/mixture.py --workdir runs/mixture
    python -m tpr_jax.main --config configs/mixture.py --workdir runs/mixture_4 \
        --config.method.both.low_rank.rank=4
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {
        "name": "mixture",
        # Parts under names of one's own; `part` says which kind it is (adapter, moe, lora, lora_moe, prefix),
        # the rest are its settings in tpr_jax/models/petl_config.py, which also draws the slots.
        "both": {
            "low_rank": {"part": "lora", "targets": ("k", "v"), "rank": 8},
            "tokens": {"part": "prefix", "length": 4, "gate": 10.0},
        },
        # DM-Adapter's mixture beside the MLPs of the upper blocks only, and a plain adapter below. Their
        # ranges meet at block 3 and do not overlap: a slot of a block holds one part.
        "vision": {
            "upper": {"part": "moe", "slot": "beside_mlp", "num_experts": 4, "layers": (3, None)},
            "lower": {"part": "adapter", "slot": "beside_mlp", "layers": (0, 3)},
        },
        "text": {"small": {"part": "adapter", "slot": "beside_ln_2", "norm": False, "scale": "learned"}},
        # Tokens of the text tower, mapped into the vision tower; without `prompts`: none.
        "prompts": {"length": 2, "direction": "to_vision"},
        # Patterns of whole paths of CLIP's own weights that train too.
        "tuned": ("visual/ln_post/.*", "text/ln_final/.*"),
    }
    config.losses.update({"sdm": 1.0, "balance": 0.5})
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
    return config
