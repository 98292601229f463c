"""Two steps of training with each kind of method: losses are logged, the state is restored and scored."""

import json

import numpy as np
import pytest

from tpr_jax.train import eval_run, loop

METHODS = {
    "up_person": ({"name": "up_person", "rank": 4, "prefix": 3}, {}),
    "cskt": ({"name": "cskt", "prompts": 2}, {"triplet": 0.1, "tal": 0.1}),
    "irra": ({"name": "irra"}, {"mlm": 1.0, "id": 1.0}),
    "mixture": (
        {
            "name": "mixture",
            "both": {"low_rank": {"part": "lora", "rank": 2, "dora": True}},
            "vision": {"experts": {"part": "lora_moe", "rank": 2, "num_experts": 3}},
            "prompts": {"length": 1, "direction": "to_text"},
            "tuned": ("text/ln_final/.*",),
        },
        {"sigmoid": 1.0, "balance": 0.5},
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_two_steps(name, make_config, tmp_path):
    method, extra = METHODS[name]
    config = make_config(total_steps=2, eval_every=0, checkpoint_every=1, mask_text=name != "irra")
    config.method = method
    config.losses.update({"balance": 0.0, **extra})
    config.mlm_depth = 1
    found = loop.train(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2]
    for row in steps:
        terms = [row[loss] for loss in ("sdm", *extra)]
        assert all(np.isfinite(terms)) and row["grad_norm"] > 0
        np.testing.assert_allclose(row["loss"], sum(terms), rtol=1e-5)
    assert found["method"] == method["name"] and 0 < found["trainable_params"] <= found["total_params"]
    # The saved model is the scored model: a missing part would change the score or raise.
    again = eval_run.evaluate_run(config, tmp_path)
    assert again["step"] == 2 and again["test"] == found["final"]["test"]
