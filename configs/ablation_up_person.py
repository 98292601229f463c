"""The rows of UP-Person's ablation: `configs/ablation_up_person.py:ROW[,DATASET]`.

    python -m tpr_jax.main --config configs/ablation_up_person.py:lora --workdir runs/ablation/lora
    python -m tpr_jax.main --config configs/ablation_up_person.py:prefix_lora,cuhk_pedes --workdir runs/pl

ROW: the parts in use, `prefix`, `lora`, `adapter`, `prefix_lora`, `prefix_adapter`, `lora_adapter`, `all`;
`vanilla_prefix` and `vanilla_all`, the same without S-Prefix's scalar; `depth_lora_N` and `depth_prefix_N`,
all parts, but that one in the first N blocks only; `depth_adapter_N`, adapters from block N on. N reaches the
blocks that both towers have: 12, on MiniPEDES 4.
"""

import runpy
from pathlib import Path

from tpr_jax import config as tpr_config

PARTS = ("prefix", "lora", "adapter")


def rows(dataset: str = "mini_pedes") -> dict[str, dict]:
    """Row -> the settings in which it differs from the whole method."""
    blocks = 4 if dataset == "mini_pedes" else 12
    return {
        **{part: {"use": (part,)} for part in PARTS},
        "prefix_lora": {"use": ("prefix", "lora")},
        "prefix_adapter": {"use": ("prefix", "adapter")},
        "lora_adapter": {"use": ("lora", "adapter")},
        "all": {"use": PARTS},
        "vanilla_prefix": {"use": ("prefix",), "vanilla": True},
        "vanilla_all": {"use": PARTS, "vanilla": True},
        **{f"depth_lora_{n}": {"depth_lora": n} for n in range(1, blocks + 1)},
        **{f"depth_prefix_{n}": {"depth_prefix": n} for n in range(1, blocks + 1)},
        **{f"depth_adapter_{n}": {"depth_adapter": n} for n in range(blocks)},
    }


def get_config(row: str = "all"):
    row, dataset = tpr_config.row_and_dataset(row, rows)
    # Rate, rank and length are those of the whole method.
    whole = runpy.run_path(str(Path(__file__).with_name("up_person.py")))["get_config"]
    config = whole(dataset)
    settings = {key: config.method[key] for key in ("name", "rank", "prefix", "reduction", "version")}
    config.method = {**settings, **rows(dataset)[row]}
    return config
