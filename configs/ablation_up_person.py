"""The rows of UP-Person's ablation: `configs/ablation_up_person.py:ROW[,DATASET]`.

    python -m tpr_jax.main --config configs/ablation_up_person.py:lora --workdir runs/ablation/lora
    python -m tpr_jax.main --config configs/ablation_up_person.py:prefix_lora,cuhk_pedes --workdir runs/pl

ROW is one of: the modules in use, `prefix`, `lora`, `adapter`, `prefix_lora`, `prefix_adapter`,
`lora_adapter` or `all`; `vanilla_prefix` and `vanilla_all`, without S-Prefix's scalar; `depth_lora_N` and
`depth_prefix_N`, all modules but that one in the first N blocks only; `depth_adapter_N`, adapters from block
N on. N ranges over the blocks that both towers have: 12, on MiniPEDES 4.
"""

import runpy
from pathlib import Path

from tpr_jax import config as tpr_config

MODULES = ("prefix", "lora", "adapter")


def rows(dataset: str = "mini_pedes") -> dict[str, dict]:
    """Returns the settings of each row that differ from the full method's."""
    blocks = 4 if dataset == "mini_pedes" else 12
    return {
        **{module: {"use": (module,)} for module in MODULES},
        "prefix_lora": {"use": ("prefix", "lora")},
        "prefix_adapter": {"use": ("prefix", "adapter")},
        "lora_adapter": {"use": ("lora", "adapter")},
        "all": {"use": MODULES},
        "vanilla_prefix": {"use": ("prefix",), "vanilla": True},
        "vanilla_all": {"use": MODULES, "vanilla": True},
        **{f"depth_lora_{n}": {"depth_lora": n} for n in range(1, blocks + 1)},
        **{f"depth_prefix_{n}": {"depth_prefix": n} for n in range(1, blocks + 1)},
        **{f"depth_adapter_{n}": {"depth_adapter": n} for n in range(blocks)},
    }


def get_config(row: str = "all"):
    """Returns the config for one row and data set."""
    row, dataset = tpr_config.row_and_dataset(row, rows)
    # Learning rate, rank and prefix length are those of the full method.
    config = runpy.run_path(str(Path(__file__).with_name("up_person.py")))["get_config"](dataset)
    settings = {key: config.method[key] for key in ("name", "rank", "prefix", "reduction", "version")}
    config.method = {**settings, **rows(dataset)[row]}
    return config
