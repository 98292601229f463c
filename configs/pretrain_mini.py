"""How clip-mini, the bundled small CLIP, was trained: from nothing, on rendered people of another domain.

    python -m tpr_jax.data.mini_pedes --domain pretrain --out data/pretrain --split all
    python -m tools.build_clip_mini new --data_dir data/pretrain --out data/clip_mini
    python -m tpr_jax.main --config configs/pretrain_mini.py --workdir runs/pretrain_mini
    python -m tools.build_clip_mini save --workdir runs/pretrain_mini --out data/clip_mini

The same trainer as for everything else, with ITC and all parameters trained. The pictures have other cameras
(which also turn all hues), backgrounds and dyes than MiniPEDES, other people, and captions that name fewer
parts in coarser words. On two CPU cores it takes an hour and a half; README.md says what the bundled weights
saw.
"""

from tpr_jax import config as tpr_config


def get_config():
    config = tpr_config.base()
    tpr_config.for_mini_pedes(config)
    config.method = {"name": "full_finetune"}
    config.backbone = "data/clip_mini"
    config.from_scratch = True
    config.data_dir = "data/pretrain"
    config.losses.update({"sdm": 0.0, "itc": 1.0})
    config.temperature = 0.05
    config.mask_text = False
    config.dtype = "float32"
    config.text_length = 40  # its captions are short
    config.batch_size = 128
    config.num_epochs = 13
    config.checkpoint_every = 125
    config.log_every = 25
    config.optimizer.update(
        {
            "lr": 1e-3,
            "eps": 1e-8,
            "warmup_epochs": 0.3,
            "weight_decay": 0.0,
            "bias_lr_factor": 1.0,
            "clip_norm": 1.0,
        }
    )
    return config
