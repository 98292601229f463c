"""CLIP's layers against NumPy in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clip as tiny

from tpr_jax.models import layers
from tpr_jax.models.methods import Adapter, Moe, Slots

D, HEADS, EPS = 8, 2, 1e-5


def layer_norm(x, scale, bias, eps=EPS):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * scale + bias


def attend(q, k, v, mask):
    """Row by row: each query's softmax over the keys it may see."""
    out = np.zeros_like(q)
    for b, h, i in np.ndindex(*q.shape[:3]):
        scores = np.array([q[b, h, i] @ key / math.sqrt(q.shape[-1]) for key in k[b, h]]) + mask[i]
        weights = np.exp(scores - scores.max())
        out[b, h, i] = weights / weights.sum() @ v[b, h]
    return out


def causal(length):
    return np.triu(np.full((length, length), -np.inf), 1)


def block_in_numpy(p, x, mask, act):
    """`h = x + MHA(LN1(x)); h + MLP(LN2(h))` and h, from a block's parameters."""
    b, l, d = x.shape
    qkv = layer_norm(x, **p["ln_1"]) @ p["attn"]["qkv"]["kernel"] + p["attn"]["qkv"]["bias"]
    parts = [part.reshape(b, l, HEADS, d // HEADS).transpose(0, 2, 1, 3) for part in np.split(qkv, 3, -1)]
    seen = attend(*parts, mask).transpose(0, 2, 1, 3).reshape(b, l, d)
    h = x + seen @ p["attn"]["out"]["kernel"] + p["attn"]["out"]["bias"]
    hidden = act(layer_norm(h, **p["ln_2"]) @ p["mlp"]["fc"]["kernel"] + p["mlp"]["fc"]["bias"])
    return h + hidden @ p["mlp"]["proj"]["kernel"] + p["mlp"]["proj"]["bias"], h


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


def float64(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def run(slots, act="quick_gelu", mask=None, seed=0):
    """(variables, x, y, routing) of a block with random parameters."""
    block = layers.Block(HEADS, 12, 2, act, EPS, slots)
    x = np.random.default_rng(seed).normal(size=(2, 5, D)).astype(np.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), jnp.asarray(x))
    variables = tiny.random_like(shapes, seed)
    y, routing = jax.jit(block.apply)(variables, x, mask)
    return float64(variables), x.astype(np.float64), y, routing


@pytest.mark.parametrize(("name", "oracle"), [("gelu", gelu), ("quick_gelu", quick_gelu)])
def test_activations(name, oracle):
    x = np.linspace(-4, 4, 33)
    found = layers.ACTIVATIONS[name](jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, oracle(x), rtol=1e-5, atol=1e-6)


def test_layer_norm():
    rng = np.random.default_rng(0)
    x, scale, bias = 3 + 5 * rng.normal(size=(2, 3, D)), rng.normal(size=D), rng.normal(size=D)
    found = layers.layer_norm(*(jnp.asarray(a, jnp.float32) for a in (x, scale, bias)), 0.5)
    np.testing.assert_allclose(found, layer_norm(x, scale, bias, 0.5), rtol=1e-5, atol=1e-5)


def test_layer_norm_of_bfloat16_computes_in_float32():
    """A mean that is no bfloat16 number, beside small differences; only the last rounding may show."""
    x = jnp.asarray(4 + 0.2 * np.random.default_rng(0).normal(size=(20, D)), jnp.bfloat16)
    found = layers.layer_norm(x, jnp.ones(D), jnp.zeros(D), EPS)
    assert found.dtype == jnp.bfloat16
    expected = layer_norm(np.asarray(x, np.float64), 1, 0)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2.0**-8, atol=1e-5)


@pytest.mark.parametrize("mask", [np.zeros((5, 5)), causal(5)], ids=["all", "causal"])
def test_attention(mask):
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 3, 5, 4))
    found = layers.attend(*(jnp.asarray(a, jnp.float32) for a in (q, k, v, mask)))
    np.testing.assert_allclose(found, attend(q, k, v, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "act"), [("gelu", gelu), ("quick_gelu", quick_gelu)])
def test_block_without_a_part(name, act):
    mask = causal(5)
    variables, x, y, routing = run(Slots(), name, jnp.asarray(mask, jnp.float32))
    assert routing == {} and set(variables) == {"params"}
    np.testing.assert_allclose(y, block_in_numpy(variables["params"], x, mask, act)[0], rtol=1e-4, atol=1e-4)


def test_adapter_stands_beside_the_mlp():
    """It reads LN3(h), h after the attention, and its output is scaled."""
    variables, x, y, routing = run(Slots(Adapter(reduction=2, scale=4.0)))
    part = variables["adapter"]["beside_mlp"]
    without, h = block_in_numpy(variables["params"], x, np.zeros((5, 5)), quick_gelu)
    hidden = np.maximum(layer_norm(h, **part["ln_3"]) @ part["down"]["kernel"] + part["down"]["bias"], 0)
    added = hidden @ part["up"]["kernel"] + part["up"]["bias"]
    assert routing == {} and part["down"]["kernel"].shape == (8, 4)
    np.testing.assert_allclose(y, without + 4 * added, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("router", ["blend", "sum", "input"])
def test_mixture_stands_beside_the_mlp(router):
    """Each token's two experts of three by a loop, scaled; and what the router says of itself."""
    variables, x, y, routing = run(Slots(Moe(3, 2, 4, router, 0.1)), seed=1)
    part = variables["moe"]["beside_mlp"]
    without, h = block_in_numpy(variables["params"], x, np.zeros((5, 5)), quick_gelu)
    u, r = layer_norm(h, **part["ln_3"]), part["router"]
    logits = u @ r["w_in"]
    if router != "input":
        a = r["alpha"] if router == "blend" else None
        by_domain = r["prompt"] @ r["w_task"]
        logits = logits + by_domain if a is None else (1 - a) * logits + a * by_domain
    added, counts = np.zeros_like(u), np.zeros(3)
    for i in np.ndindex(*u.shape[:2]):
        best = np.argsort(-logits[i])[:2]
        counts[best] += 1
        weights = np.exp(logits[i][best]) / np.exp(logits[i][best]).sum()
        for weight, e in zip(weights, best, strict=True):
            hidden = np.maximum(u[i] @ part["down"]["kernel"][:, e] + part["down"]["bias"][e], 0)
            added[i] += weight * (hidden @ part["up"]["kernel"][e] + part["up"]["bias"][e])
    np.testing.assert_allclose(y, without + 0.1 * added, rtol=1e-4, atol=1e-4)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(routing["load"], counts / counts.sum(), rtol=1e-5)
    np.testing.assert_allclose(routing["balance"], (probability.mean((0, 1)) * counts / 10).sum(), rtol=1e-4)
    np.testing.assert_allclose(routing["alpha"], r["alpha"] if router == "blend" else 0, rtol=1e-6)


def test_leaves_of_each_router():
    leaves = {
        "input": {"w_in"},
        "sum": {"w_in", "w_task", "prompt"},
        "blend": {"w_in", "w_task", "prompt", "alpha"},
    }
    for kind, names in leaves.items():
        shapes = jax.eval_shape(layers.Router(Moe(router=kind), D).init, jax.random.key(0))
        assert set(shapes["moe"]) == names
