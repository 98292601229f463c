"""IRRA (CVPR 2023): all of CLIP, with SDM, the classification of identities and masked language modeling.

python -m tpr_jax.main --config configs/irra.py --workdir runs/irra
python -m tpr_jax.main --config configs/irra.py:cuhk_pedes --workdir runs/cuhk --config.data_dir=DIR
"""

from tpr_jax import config as tpr_config


def get_config(dataset: str = "mini_pedes"):
    config = tpr_config.base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in tpr_config.BENCHMARKS
    config.method = {"name": "irra"}
    config.losses.update({"sdm": 1.0, "mlm": 1.0, "id": 1.0})
    config.mask_text = False  # only the loss 'mlm' sees masked captions
    config.mlm_depth = 4
    config.batch_size = 64
    config.optimizer.lr = 1e-5
    if dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
        config.mlm_depth = 1
        config.optimizer.lr = 3e-4  # all of clip-mini moves: a tenth of what its parts take
    return config
