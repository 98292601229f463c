"""Schedules against the reference's rates; groups; Adam against a step worked by hand."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tpr_jax import optim
from tpr_jax.errors import UserError
from tpr_jax.utils.trees import flatten, merge, unflatten

GOLDEN = json.loads((Path(__file__).parent / "golden" / "lr_schedules.json").read_text())


@pytest.mark.parametrize("kind", sorted(GOLDEN["lr_by_epoch"]))
def test_schedules_match_the_reference(kind):
    rate = optim.schedule(
        GOLDEN["base_lr"],
        kind=kind,
        warmup_epochs=GOLDEN["warmup_epochs"],
        num_epochs=GOLDEN["total_epochs"],
        steps_per_epoch=7,
        per_step=False,
        warmup_factor=GOLDEN["warmup_factor"],
        milestones=GOLDEN["milestones"],
        gamma=GOLDEN["gamma"],
    )
    for epoch, expected in enumerate(GOLDEN["lr_by_epoch"][kind]):
        for step in (7 * epoch, 7 * epoch + 6):
            np.testing.assert_allclose(rate(jnp.array(step)), expected, rtol=2e-5, atol=1e-10)


def test_per_step_schedule_moves_within_an_epoch():
    settings = {"kind": "linear", "warmup_epochs": 1, "num_epochs": 3, "steps_per_epoch": 10}
    rate = optim.schedule(1.0, per_step=True, **settings)
    np.testing.assert_allclose(
        [rate(0), rate(5), rate(10), rate(20), rate(30)], [0.1, 0.55, 1, 0.5, 0], atol=1e-6
    )


def test_unknown_schedule_lists_the_schedules():
    with pytest.raises(UserError, match="cosine"):
        optim.schedule(1.0, kind="cosin", warmup_epochs=1, num_epochs=3, steps_per_epoch=10, per_step=True)


def test_adam_by_hand():
    """Two steps with L2 decay inside the moments, eps 1e-3, and biases at twice the rate without decay."""
    tree = {"moe": {"down": {"kernel": jnp.array([2.0]), "bias": jnp.array([1.0])}}}
    gradient = {"moe": {"down": {"kernel": jnp.array([0.5]), "bias": jnp.array([0.5])}}}
    groups = ((r".*/bias", 2.0, 0.0), (r".*", 1.0, 0.1))
    optimizer = optim.adam(lambda step: 0.01, tree, groups)
    state, values = optimizer.init(tree), tree
    expected = {"kernel": 2.0, "bias": 1.0}
    moments = {"kernel": [0.0, 0.0], "bias": [0.0, 0.0]}
    for t in (1, 2):
        updates, state = optimizer.update(gradient, state, values)
        values = {
            "moe": {"down": {k: values["moe"]["down"][k] + updates["moe"]["down"][k] for k in expected}}
        }
        for name, factor, decay in (("kernel", 1, 0.1), ("bias", 2, 0.0)):
            g = 0.5 + decay * expected[name]
            m, v = moments[name]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            moments[name] = [m, v]
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-3)
            expected[name] -= 0.01 * factor * step
    for name, value in expected.items():
        np.testing.assert_allclose(values["moe"]["down"][name], value, rtol=1e-5)


def test_every_leaf_must_be_covered():
    tree = {"moe": {"down": {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)}}}
    with pytest.raises(UserError, match="moe/down/kernel"):
        optim.group_of(tree, ((r".*/bias", 1.0, 0.0),))


def test_first_matching_group_applies():
    tree = {"moe": {"down": {"kernel": 0, "bias": 0}}}
    assert optim.group_of(tree, optim.DEFAULT_GROUPS) == {"moe": {"down": {"kernel": "1", "bias": "0"}}}


def test_split_collections():
    tree = {"params": {"visual": {"proj": 1}}, "moe": {"down": 2}}
    assert optim.split_collections(tree, ("moe",)) == ({"moe": {"down": 2}}, {"params": tree["params"]})
    assert optim.split_collections(tree, ("moe", "params")) == (tree, {})
    with pytest.raises(UserError, match="lora"):
        optim.split_collections(tree, ("lora",))


def test_split_of_the_weights_of_clip():
    """Each leaf lands on exactly one side, by patterns of whole paths."""
    blocks = {f"block_{i}": {"mlp": {"fc": {"kernel": 10 + i, "bias": 20 + i}}} for i in range(2)}
    tree = {"params": {"visual": blocks, "text": {"proj": 3}}, "moe": {"down": 4}}
    trainable, frozen = optim.split_collections(tree, ("moe", "params"), (".*block_1.*/bias", "text/proj"))
    assert trainable == {
        "moe": {"down": 4},
        "params": {"visual": {"block_1": {"mlp": {"fc": {"bias": 21}}}}, "text": {"proj": 3}},
    }
    assert frozen == {
        "params": {
            "visual": {
                "block_0": blocks["block_0"],
                "block_1": {"mlp": {"fc": {"kernel": 11}}},
            }
        }
    }
    assert merge(frozen, trainable) == tree
    # A pattern must match the whole path, and has no effect unless `params` is trainable.
    with pytest.raises(UserError, match="the pattern 'bias' of trainable weights matches no weight"):
        optim.split_collections(tree, ("params",), ("bias",))
    assert optim.split_collections(tree, ("moe",), ("text/proj",))[1] == {"params": tree["params"]}


def test_groups_match_the_reference():
    """METHODS' order, later lines winning: `cross` x 5; biases x 2 and no decay; the two heads x 5."""
    groups = optim.parameter_groups(0.1, 2.0, 5.0)
    expected = {
        "params/visual/block_0/mlp/fc/kernel": (1.0, 0.1),
        "params/visual/ln_post/scale": (1.0, 0.1),
        "params/visual/ln_post/bias": (2.0, 0.0),
        "moe/text/block_0/beside_mlp/down/bias": (2.0, 0.0),
        "lora/text/block_0/attn/qkv/lora_k/scale": (1.0, 0.1),
        "head/classifier/kernel": (5.0, 0.1),
        "head/classifier/bias": (5.0, 0.0),
        "head/masked_words/mlm_head_fc/kernel": (5.0, 0.1),
        "head/masked_words/mlm_head_fc/bias": (5.0, 0.0),
        "head/masked_words/mlm_head_ln/scale": (5.0, 0.1),
        "head/masked_words/cross_attn/qkv/kernel": (5.0, 0.1),
        "head/masked_words/cross_attn/out/bias": (2.0, 0.0),
        "head/masked_words/cross_block_3/ln_1/scale": (5.0, 0.1),
        "head/masked_words/cross_block_3/mlp/fc/bias": (2.0, 0.0),
        "head/masked_words/ln_pre_t/scale": (1.0, 0.1),
        "head/masked_words/ln_post/bias": (2.0, 0.0),
    }
    found = flatten(optim.group_of(unflatten(dict.fromkeys(expected, 0)), groups))
    assert {path: groups[int(group)][1:] for path, group in found.items()} == expected


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("step", {"milestones": (2, 3), "gamma": 0.5}, [1, 1, 0.5, 0.25]),
        ("step", {"milestones": (), "gamma": 0.5}, [1, 1, 1, 1]),
        ("poly", {"power": 0.25}, [0.25, 0.25**0.75, 0.25**0.5, 0.25**0.25]),
        ("exp", {"power": 0.25}, [1, 0.25**0.25, 0.25**0.5, 0.25**0.75]),
    ],
)
def test_milestones_gamma_and_power_by_hand(kind, settings, expected):
    """Four epochs without a warm-up: the part done is 0, 1/4, 1/2, 3/4."""
    shape = {"warmup_epochs": 0, "num_epochs": 4, "steps_per_epoch": 3, "per_step": False}
    rate = optim.schedule(1.0, kind=kind, **shape, **settings)
    np.testing.assert_allclose([rate(3 * epoch) for epoch in range(4)], expected, rtol=1e-6)
    np.testing.assert_allclose([rate(jnp.array(3 * epoch + 2)) for epoch in range(4)], expected, rtol=1e-6)


def test_default_powers_match_the_reference():
    assert GOLDEN["power"] == 0.9
    for kind, at in (("poly", 0.9), ("exp", 1.0)):
        rate = optim.schedule(
            1.0, kind=kind, warmup_epochs=0, num_epochs=4, steps_per_epoch=1, per_step=False
        )
        np.testing.assert_allclose(rate(0), at, rtol=1e-6)
