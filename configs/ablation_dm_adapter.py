"""The rows of DM-Adapter's ablation: `configs/ablation_dm_adapter.py:ROW[,DATASET]`.

    python -m tpr_jax.main --config configs/ablation_dm_adapter.py:moe --workdir runs/ablation/moe
    python -m tpr_jax.main --config configs/ablation_dm_adapter.py:top_3,cuhk_pedes --workdir runs/top_3

ROW: `adapter`, one parallel adapter; `moe`, a mixture without the balance term; `moe_balance`, with it;
`domain_router`, with the domain-aware router besides, the whole method; `experts_2` ... `experts_10` and
`top_1` ... `top_6`, the whole method with another number of experts, all and chosen.
"""

from tpr_jax import config as tpr_config

WHOLE = {"name": "dm_adapter", "num_experts": 6, "top_k": 2, "reduction": 8, "router": "blend"}


def rows(dataset: str = "mini_pedes") -> dict[str, tuple[dict, float]]:
    """Row -> (the method's settings, the weight of the balance term)."""
    by_input = {**WHOLE, "router": "input"}
    return {
        "adapter": ({"name": "parallel_adapter", "reduction": 8}, 0.0),
        "moe": (by_input, 0.0),
        "moe_balance": (by_input, 0.5),
        "domain_router": (WHOLE, 0.5),
        **{f"experts_{e}": ({**WHOLE, "num_experts": e}, 0.5) for e in range(2, 11)},
        **{f"top_{k}": ({**WHOLE, "top_k": k}, 0.5) for k in range(1, 7)},
    }


def get_config(row: str = "domain_router"):
    config = tpr_config.base()
    row, config.dataset = tpr_config.row_and_dataset(row, rows)
    config.eval_test_each_time = config.dataset in tpr_config.BENCHMARKS
    method, balance = rows()[row]
    config.method = {**method, "scales": (0.1, 4.0)}
    config.losses.update({"sdm": 1.0, "balance": balance})
    if config.dataset == "mini_pedes":
        tpr_config.for_mini_pedes(config)
        config.method.scales = (1.0, 1.0)  # as in dm_adapter.py
    return config
