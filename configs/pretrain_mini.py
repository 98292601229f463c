"""How clip-mini, the bundled small CLIP, was trained: from scratch, on rendered people of another domain.

    python -m tpr_jax.data.mini_pedes --domain pretrain --out data/pretrain --split all
    python -m tools.build_clip_mini new --data_dir data/pretrain --out data/clip_mini
    python -m tpr_jax.main --config configs/pretrain_mini.py --workdir runs/pretrain_mini
    python -m tools.build_clip_mini save --workdir runs/pretrain_mini --out data/clip_mini

It uses the same trainer as all other configs, with ITC and all parameters trained. The images have other
cameras (which also rotate all hues), backgrounds and dyes than MiniPEDES and show other people, and their
captions name fewer parts in coarser words. Training takes an hour and a half on two CPU cores;
docs/mini_pedes.md describes the training data of the bundled weights.
"""

from tpr_jax import config as tpr_config


def get_config():
    """Returns the config."""
    return tpr_config.recipe(
        "mini_pedes",
        method={"name": "full_finetune"},
        losses={"sdm": 0.0},
        backbone="data/clip_mini",
        from_scratch=True,
        data_dir="data/pretrain",
        mask_text=False,
        optimizer={"weight_decay": 0.0, "bias_lr_factor": 1.0, "clip_norm": 1.0},
        mini_pedes={
            "backbone": "data/clip_mini",
            "losses.itc": 1.0,
            "text_length": 40,  # its captions are short
            "batch_size": 128,
            "num_epochs": 13,
            "checkpoint_every": 125,
            "log_every": 25,
            "optimizer.lr": 1e-3,
            "optimizer.eps": 1e-8,
        },
    )
