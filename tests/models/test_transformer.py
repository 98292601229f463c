"""Scanned against unrolled blocks, and a last block that returns one token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_clip as tiny
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax import optim
from tpr_jax.models import clip
from tpr_jax.models.block import Block, token_at
from tpr_jax.models.methods import METHODS
from tpr_jax.models.petl_config import Adapter, Lora, LoraMoe, Moe, Prefix, slots_of_block
from tpr_jax.train import objective

LAYERS = 5
SIZES = dataclasses.replace(tiny.CONFIG, vision_layers=LAYERS, text_layers=LAYERS)
SETTINGS = {
    "dm_adapter": tiny.DM_SETTINGS,
    # LoRA in blocks 0 and 1, adapters from 1 on: only 2 and 3 are equal, as the last returns one token.
    "up_person": tiny.SETTINGS["up_person"] | {"depth_lora": 2, "depth_adapter": 1},
    "cskt": tiny.SETTINGS["cskt"] | {"depth": 3},
    "full_finetune": {},
}


def step_of(name: str, remat: str, scan: bool):
    """Returns ((loss, metrics), gradient) of a batch, and the number of loops in the program."""
    method = METHODS[name](**SETTINGS[name])
    model, batch = clip.build(SIZES, method, remat=remat, scan_layers=scan), tiny.batch(6)
    variables = tiny.random_like(clip.declare(SIZES, method), seed=0)
    trainable, frozen = optim.split_model(jax.tree.map(jnp.asarray, variables), method)
    weights = {"sdm": 1.0} | ({"balance": 0.5} if method.mixtures else {})

    def loss(trainable):
        return objective.objective(model, weights, 5.0, trainable, frozen, batch)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True)).trace(trainable)
    return run.lower().compile()(trainable), str(run.jaxpr).count("scan[")


@pytest.mark.parametrize(
    ("name", "remat"),
    [("dm_adapter", "none"), ("up_person", "none"), ("cskt", "none"), ("full_finetune", "block")],
)
def test_scan_matches_the_unrolled_blocks(name, remat):
    ((loss, metrics), gradient), loops = step_of(name, remat, scan=False)
    ((scanned, other_metrics), other_gradient), more_loops = step_of(name, remat, scan=True)
    assert loops == 0 and more_loops > 0
    np.testing.assert_allclose(scanned, loss, rtol=1e-6)
    assert metrics.keys() == other_metrics.keys()
    for key, value in metrics.items():
        np.testing.assert_allclose(other_metrics[key], value, rtol=1e-6, atol=1e-7, err_msg=key)
    assert jax.tree.structure(gradient) == jax.tree.structure(other_gradient)
    gradient, other_gradient = jax.device_get((gradient, other_gradient))
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    difference = jax.tree.map(lambda a, b: np.square(a - b).sum(), gradient, other_gradient)
    assert np.sqrt(sum(jax.tree.leaves(difference))) < 5e-6 * norm  # the sums have another order


ROWS, TOKENS, WIDTH = 3, 5, 8
EVERYWHERE = tuple(
    Adapter(slot, 2, norm=slot == "beside_mlp", init="normal")
    for slot in ("beside_ln_1", "after_attn", "beside_ln_2", "beside_mlp", "after_mlp")
)
CASES = [
    (),
    EVERYWHERE,
    (Lora(("q", "k", "v", "out", "fc", "proj"), 2), Prefix(2)),
    (Lora(("q", "v"), 2, dora=True),),
    (LoraMoe(("q", "v"), 2, 3, 2), Moe("beside_ln_1", 3, 2, 2)),
    (Moe("beside_mlp", 3, 2, 2), *EVERYWHERE[:3], Prefix(2)),
    (LoraMoe(("out", "fc"), 2, 3, 2), Moe("after_mlp", 3, 2, 2)),
    (Lora(("q", "k", "out"), 2, dora=True), Moe("beside_mlp", 3, 2, 2)),
]


def both(parts, index, causal: bool):
    """Returns a full block's output at one token and its routing, and the same of the last block."""
    slots = slots_of_block(parts, 0, 1)
    blocks = [Block(2, 12, 1, "gelu", 1e-5, slots, last=last) for last in (False, True)]
    x = np.random.default_rng(1).normal(size=(ROWS, TOKENS, WIDTH)).astype(np.float32)
    mask = np.triu(np.full((TOKENS, TOKENS), -np.inf, np.float32), 1) if causal else None
    shapes = jax.eval_shape(blocks[0].init, jax.random.key(0), x, mask)
    variables = tiny.random_like({k: v for k, v in shapes.items() if k != "routing"}, seed=2)
    assert jax.eval_shape(blocks[1].init, jax.random.key(0), x, mask, index) == shapes
    whole, routing = blocks[0].apply(variables, x, mask, mutable=["routing"])
    one, other = blocks[1].apply(variables, x, mask, index, mutable=["routing"])
    return (token_at(whole, index), routing), (one, other)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("parts", CASES)
def test_last_block_returns_one_token(parts, causal):
    """Routing statistics cover all tokens there too."""
    index = jnp.array([4, 0, 2]) if causal else None
    (expected, routing), (found, other) = both(parts, index, causal)
    assert found.shape == (ROWS, 1, WIDTH)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    for one, two in zip(jax.tree.leaves(routing), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5)


def test_last_block_computes_only_keys_and_values_of_other_tokens():
    """The products cover keys and values of 5 tokens, but queries, output and MLP of one."""
    x = np.zeros((ROWS, TOKENS, WIDTH), np.float32)
    shapes = set()
    for last in (False, True):
        block = Block(2, 12, 1, "gelu", 1e-5, {}, last=last)
        variables = block.init(jax.random.key(0), x)
        jaxpr = str(jax.make_jaxpr(lambda v, block=block: block.apply(v, x))(variables))
        shapes.add((jaxpr.count(f"[{ROWS},{TOKENS},12]") > 0, jaxpr.count(f"[{ROWS},1,12]") > 0))
    assert shapes == {(True, False), (False, True)}
