"""All of CLIP, with ITC; with SDM instead by the flags.

    python -m tpr_jax.main --config configs/full_finetune.py --workdir runs/full_finetune
    python -m tpr_jax.main --config configs/full_finetune.py --workdir runs/full_finetune_2 \
        --config.losses.itc=0 --config.losses.sdm=1
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {"name": "full_finetune"}
    config.optimizer.lr = 1e-5
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
        config.optimizer.lr = 3e-4  # all of clip-mini moves: a tenth of what its parts take
    config.losses.update({"sdm": 0.0, "itc": 1.0})
    return config
