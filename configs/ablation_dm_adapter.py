"""The rows of DM-Adapter's ablation: `configs/ablation_dm_adapter.py:ROW[,DATASET]`.

    python -m tpr_jax.main --config configs/ablation_dm_adapter.py:moe --workdir runs/ablation/moe
    python -m tpr_jax.main --config configs/ablation_dm_adapter.py:top_3,cuhk_pedes --workdir runs/top_3

ROW is one of: `adapter`, one parallel adapter; `moe`, a mixture without the balance loss; `moe_balance`, with
it; `domain_router`, also with the domain-aware router, which is the full method; `experts_2` ... `experts_10`
and `top_1` ... `top_6`, the full method with another number of experts or of selected experts.
"""

from tpr_jax import config as tpr_config

FULL = {"name": "dm_adapter", "num_experts": 6, "top_k": 2, "reduction": 8, "router": "blend"}


def rows(dataset: str = "mini_pedes") -> dict[str, tuple[dict, float]]:
    """Returns (the method's settings, the weight of the balance loss) of each row."""
    by_input = {**FULL, "router": "input"}
    return {
        "adapter": ({"name": "parallel_adapter", "reduction": 8}, 0.0),
        "moe": (by_input, 0.0),
        "moe_balance": (by_input, 0.5),
        "domain_router": (FULL, 0.5),
        **{f"experts_{e}": ({**FULL, "num_experts": e}, 0.5) for e in range(2, 11)},
        **{f"top_{k}": ({**FULL, "top_k": k}, 0.5) for k in range(1, 7)},
    }


def get_config(row: str = "domain_router"):
    """Returns the config for one row and data set."""
    row, dataset = tpr_config.row_and_dataset(row, rows)
    method, balance = rows()[row]
    return tpr_config.recipe(
        dataset,
        method={**method, "scales": (0.1, 4.0)},
        losses={"sdm": 1.0, "balance": balance},
        mini_pedes={"method.scales": (1.0, 1.0)},  # as in dm_adapter.py
    )
