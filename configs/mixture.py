"""An example of a combination: PEFT modules in any slots, blocks and towers, prompts, CLIP's own weights.

    python -m tpr_jax.main --config configs/mixture.py --workdir runs/mixture
    python -m tpr_jax.main --config configs/mixture.py --workdir runs/mixture_4 \
        --config.method.both.low_rank.rank=4
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(
        dataset,
        method={
            "name": "mixture",
            # Modules under names of your choice. `part` is the kind (adapter, moe, lora, lora_moe, prefix);
            # the rest are its settings in tpr_jax/models/petl_config.py, which also draws the slots.
            "both": {
                "low_rank": {"part": "lora", "targets": ("k", "v"), "rank": 8},
                "tokens": {"part": "prefix", "length": 4, "gate": 10.0},
            },
            # DM-Adapter's mixture beside the MLPs of the upper blocks, and a plain adapter in the lower ones.
            # The ranges meet at block 3 without overlap: a slot of a block holds one module.
            "vision": {
                "upper": {"part": "moe", "slot": "beside_mlp", "num_experts": 4, "layers": (3, None)},
                "lower": {"part": "adapter", "slot": "beside_mlp", "layers": (0, 3)},
            },
            "text": {"small": {"part": "adapter", "slot": "beside_ln_2", "norm": False, "scale": "learned"}},
            # Tokens of the text tower, mapped into the vision tower; without `prompts`: none.
            "prompts": {"length": 2, "direction": "to_vision"},
            # Patterns that match the full paths of CLIP's own weights to train.
            "tuned": ("visual/ln_post/.*", "text/ln_final/.*"),
        },
        losses={"sdm": 1.0, "balance": 0.5},
    )
