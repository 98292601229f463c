"""Trains CLIP on a large set of people with machine-written captions, before it is adapted to a benchmark.

    python -m tpr_jax.main --config configs/pretrain_people.py:synth_pedes --workdir runs/people
    python -m tpr_jax.main --config configs/dm_adapter.py:cuhk_pedes --workdir runs/cuhk \
        --config.backbone=runs/people
    python -m tpr_jax.main --config configs/pretrain_people.py:lora,webperson --workdir runs/people_lora

The argument is [METHOD,]DATASET. METHOD is a name of `config.method.name`, with its default settings; without
it, all of CLIP is trained. Without an argument, clip-mini is trained as clip-street was
(`pretrain_street.py`), on people that `python -m tpr_jax.data.mini_pedes --domain street --out data/street`
renders.
docs/pretrain.md lists the data sets, and says what pre-training brings.
"""

import inspect

from tpr_jax import config as tpr_config
from tpr_jax.models.methods import METHODS


def rows(dataset: str = "mini_pedes") -> tuple[str, ...]:
    """Returns the methods."""
    return tuple(METHODS)


def get_config(row: str = "mini_pedes"):
    """Returns the config for [METHOD,]DATASET."""
    method, _, dataset = row.rpartition(",")
    method, dataset = tpr_config.row_and_dataset(f"{method or 'full_finetune'},{dataset}", rows)
    trains_all = method in ("full_finetune", "irra")
    settings = {key: value.default for key, value in inspect.signature(METHODS[method]).parameters.items()}
    return tpr_config.recipe(
        dataset,
        method={"name": method, **settings},  # so that flags can change each of them
        losses={"sdm": 0.0, "itc": 1.0},
        mask_text=False,
        # As MLLM4Text (CVPR 2024) and GA-DMS (EMNLP 2025): 30 epochs of batches of 512 and more.
        batch_size=512,
        num_epochs=30,
        optimizer={
            "lr": 1e-5 if trains_all else 3e-4,
            # Not the papers' eps of 1e-3, with which Adam all but is gradient descent.
            "eps": 1e-8,
            "warmup_epochs": 1.0,
            "weight_decay": 0.0,
            "bias_lr_factor": 1.0,
            "clip_norm": 1.0,
        },
        data_dir="data/street" if dataset == "mini_pedes" else "",
        mini_pedes={
            "losses.itc": 1.0,
            "text_length": 32,  # the longest caption has 27 tokens
            "batch_size": 128,
            "num_epochs": 5,
            "checkpoint_every": 125,
            "log_every": 25,
            "optimizer.lr": 1e-3 if trains_all else 3e-3,
            "optimizer.eps": 1e-8,
        },
    )
