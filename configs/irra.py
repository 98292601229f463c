"""IRRA (CVPR 2023): all of CLIP, with SDM, identity classification and masked language modeling.

python -m tpr_jax.main --config configs/irra.py --workdir runs/irra
python -m tpr_jax.main --config configs/irra.py:cuhk_pedes --workdir runs/cuhk --config.data_dir=DIR
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    """Returns the config for a data set."""
    return tpr_config.recipe(
        dataset,
        method={"name": "irra"},
        losses={"sdm": 1.0, "mlm": 1.0, "id": 1.0},
        mask_text=False,  # only the loss 'mlm' sees masked captions
        mlm_depth=4,
        batch_size=64,
        optimizer={"lr": 1e-5},
        # All of clip-mini is trained: a tenth of the rate of its PEFT modules.
        mini_pedes={"mlm_depth": 1, "optimizer.lr": 3e-4},
    )
