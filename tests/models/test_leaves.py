"""Every leaf of every method by name and shape, and the published numbers of parameters."""

import pytest

from tests import tiny_clip as tiny
from tests.leaves import blocks as of_blocks
from tests.leaves import (
    clip_leaves,
    cskt_leaves,
    dm_adapter_leaves,
    head_leaves,
    lora_method_leaves,
    lora_moe_leaves,
    parallel_adapter_leaves,
    prefix_leaves,
    prompt_leaves,
    sequential_adapter_leaves,
    shapes_of,
    total,
    up_person_leaves,
    within,
)
from tpr_jax import optim
from tpr_jax.models.clip import declare
from tpr_jax.models.config import ClipConfig, Heads
from tpr_jax.models.methods import METHODS, cskt, dm_adapter, irra, up_person

# The parts of each method on the tiny CLIP, with `tiny.SETTINGS`; other methods have none.
PARTS = {
    "dm_adapter": dm_adapter_leaves,
    "up_person": lambda c: up_person_leaves(c, rank=3, prefix=2),
    "cskt": lambda c: cskt_leaves(c, length=1),
    "parallel_adapter": parallel_adapter_leaves,
    "sequential_adapter": sequential_adapter_leaves,
    "lora": lambda c: lora_method_leaves(c, 3, "qv", learned_scale=False),
    "prefix": lambda c: {"prefix": of_blocks(c, lambda d, _: within("attn/prefix", prefix_leaves(d, 2)))},
    "prompts": lambda c: {"prompt": prompt_leaves(c, 2, 1)},
    "lora_moe": lambda c: lora_moe_leaves(c, rank=2),
    "mixture": lambda c: lora_method_leaves(c, 2, "kv", learned_scale=True),
}


def trained(config, method, heads=None) -> dict:
    """Returns {collection: {leaf: shape}} of the method's trained variables."""
    variables = declare(config, method, heads or Heads())
    trainable, frozen = optim.split_model(variables, method)
    # Each leaf is either trainable or frozen.
    assert total(shapes_of(trainable)) + total(shapes_of(frozen)) == total(shapes_of(variables))
    return {name: shapes_of(tree) for name, tree in trainable.items()}


@pytest.mark.parametrize("name", METHODS)
def test_every_leaf_of_a_small_model(name):
    found = declare(tiny.CONFIG, METHODS[name](**tiny.SETTINGS.get(name, {})))
    parts = PARTS[name](tiny.CONFIG) if name in PARTS else {}
    assert shapes_of(found.pop("params")) == clip_leaves(tiny.CONFIG)
    assert {collection: shapes_of(tree) for collection, tree in found.items()} == parts


def test_the_backbone_is_vit_b_16():
    """The default ClipConfig is ViT-B/16 at 384 x 128 pixels."""
    backbone = shapes_of(declare(ClipConfig(), METHODS["zero_shot"]())["params"])
    assert backbone == clip_leaves(ClipConfig())
    by_tower = {
        tower: total({k: v for k, v in backbone.items() if k.startswith(tower)})
        for tower in ("visual", "text")
    }
    assert by_tower == {"visual": 86_189_568, "text": 63_428_096}
    assert total(backbone) == 149_617_664


@pytest.mark.parametrize(
    ("method", "leaves", "count", "number"),
    [
        (dm_adapter(), dm_adapter_leaves(ClipConfig()), 2 * 12 * 10, 15_669_528),
        (up_person(), up_person_leaves(ClipConfig(), 32, 10), 2 * 12 * 21, 7_419_816),
        (up_person(32, 14), up_person_leaves(ClipConfig(), 32, 14), 2 * 12 * 21, 7_542_696),
        (up_person(16, 2), up_person_leaves(ClipConfig(), 16, 2), 2 * 12 * 21, 6_191_016),
        (cskt(), cskt_leaves(ClipConfig()), 2 * 12 * 6 + 6, 12_117_888),
    ],
    ids=["dm_adapter", "up_person", "up_person_icfg", "up_person_rstp", "cskt"],
)
def test_every_trained_leaf_on_vit_b_16(method, leaves, count, number):
    """The published numbers of parameters at 384 x 128 pixels."""
    found = trained(ClipConfig(), method)
    assert found == leaves
    assert sum(map(len, leaves.values())) == count
    assert sum(map(total, found.values())) == number


def test_irra_trains_all_of_clip_and_its_heads():
    """Everything but the temperature; the heads at 11,003 identities and depth 4."""
    config = ClipConfig()
    found = trained(config, irra(), Heads(11_003, 4))
    assert found == {"params": clip_leaves(config), "head": head_leaves(config, 11_003, 4)}


# The trained weights of CLIP itself: patterns against independently written lists.
LEAVES = clip_leaves(tiny.CONFIG)
TUNED = {
    "linear_probe": {"visual/proj", "text/proj"},
    "bitfit": {name for name in LEAVES if name.endswith("/bias")},
    "layer_norm": {name for name in LEAVES if any(part.startswith("ln_") for part in name.split("/"))},
    "full_finetune": set(LEAVES),
    "irra": set(LEAVES),
    "mixture": {"text/proj"},
}


@pytest.mark.parametrize("name", METHODS)
def test_trained_weights_of_clip(name):
    method = METHODS[name](**tiny.SETTINGS.get(name, {}))
    params = trained(tiny.CONFIG, method).get("params", {})
    assert set(params) == TUNED.get(name, set())
