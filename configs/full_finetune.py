"""Trains all of CLIP, with ITC, or with SDM by flags.

    python -m tpr_jax.main --config configs/full_finetune.py --workdir runs/full_finetune
    python -m tpr_jax.main --config configs/full_finetune.py --workdir runs/full_finetune_2 \
        --config.losses.itc=0 --config.losses.sdm=1
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(
        dataset,
        method={"name": "full_finetune"},
        losses={"sdm": 0.0, "itc": 1.0},
        optimizer={"lr": 1e-5},
        # All of clip-mini is trained: a tenth of the rate of its PEFT modules.
        mini_pedes={"losses.itc": 1.0, "optimizer.lr": 3e-4},
    )
