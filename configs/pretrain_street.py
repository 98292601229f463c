"""How clip-street, the bundled CLIP for real people, was trained: from clip-mini, on boxes as in footage.

    python -m tpr_jax.data.mini_pedes --domain street --out data/street --split all
    python -m tpr_jax.main --config configs/pretrain_street.py --workdir runs/pretrain_street
    python -m tools.build_clip_mini save --workdir runs/pretrain_street --out data/clip_street

The images look like a detector's boxes in footage: cameras from above and far away, motion, noise and JPEG,
color casts, loose boxes, neighbors and signs in the box, and some boxes without a person. The captions name
clothes and colors in everyday words. Training takes about 45 minutes on one CPU core.
"""

from tpr_jax import config as tpr_config


def get_config():
    """Returns the config."""
    return tpr_config.recipe(
        "mini_pedes",
        method={"name": "full_finetune"},
        losses={"sdm": 0.0},
        data_dir="data/street",
        mask_text=False,
        optimizer={"weight_decay": 0.0, "bias_lr_factor": 1.0, "clip_norm": 1.0},
        mini_pedes={
            "losses.itc": 1.0,
            "text_length": 32,  # the longest caption has 27 tokens
            "batch_size": 128,
            "num_epochs": 5,
            "checkpoint_every": 125,
            "log_every": 25,
            "optimizer.lr": 1e-3,
            "optimizer.eps": 1e-8,
        },
    )
