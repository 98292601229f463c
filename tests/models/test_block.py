"""CLIP's block with a part in each of its slots, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests import tiny_clip as tiny
from tests.oracles import EPS, float64, layer_norm
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.models import matmul
from tpr_jax.models.block import Block, Dense
from tpr_jax.models.petl.moe import batch_statistics
from tpr_jax.models.petl_config import Adapter, Lora, LoraMoe, Moe, Prefix, slots_of_block

D, HEADS, MLP = 8, 2, 12
ALL = np.zeros((5, 5))


def run(*parts, act="quick_gelu", mask=None, seed=0):
    """Returns (variables, x, y, routing) of a block with parts and random variables."""
    block = Block(HEADS, MLP, 2, act, EPS, slots_of_block(parts, 0, 1))
    x = np.random.default_rng(seed).normal(size=(2, 5, D)).astype(np.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), jnp.asarray(x))
    shapes = {name: tree for name, tree in shapes.items() if name != "routing"}
    variables = tiny.random_like(shapes, seed)
    y, state = jax.jit(lambda v, x: block.apply(v, x, mask, mutable=["routing"]))(variables, x)
    sown = jax.tree.leaves(state.get("routing", {}), is_leaf=lambda x: "chosen" in x)
    routing = [batch_statistics(rows) for rows in sown]
    return float64(variables), x.astype(np.float64), y, routing


def plain(variables, x, mask=ALL):
    return oracles.block(variables["params"], x, mask, HEADS)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_block_without_parts_matches_numpy(act):
    mask = oracles.causal(5)
    variables, x, y, routing = run(act=act, mask=jnp.asarray(mask, jnp.float32))
    assert routing == [] and set(variables) == {"params"}
    close(y, oracles.block(variables["params"], x, mask, HEADS, getattr(oracles, act))[0])


def test_adapter_beside_the_mlp():
    """It reads LN3(h), where h follows the attention, and its output is scaled."""
    variables, x, y, routing = run(Adapter(reduction=2, scale=4.0))
    part = variables["adapter"]["beside_mlp"]
    without, h = plain(variables, x)
    assert routing == [] and part["down"]["kernel"].shape == (8, 4)
    close(y, without + 4 * oracles.adapter(layer_norm(h, **part["ln_3"]), part))


@pytest.mark.parametrize("router", ["blend", "sum", "input"])
def test_mixture_beside_the_mlp(router):
    """Compares with a loop over the two selected experts of each token, and checks the routing statistics."""
    variables, x, y, (routing,) = run(Moe("beside_mlp", 3, 2, 4, router, 0.1), seed=1)
    part = variables["moe"]["beside_mlp"]
    without, h = plain(variables, x)
    u = layer_norm(h, **part["ln_3"])
    logits = oracles.router(u, part["router"], router)
    added, counts = np.zeros_like(u), np.zeros(3)
    for i in np.ndindex(*u.shape[:2]):
        for e, weight in oracles.top(logits[i], 2):
            counts[e] += 1
            hidden = np.maximum(u[i] @ part["down"]["kernel"][:, e] + part["down"]["bias"][e], 0)
            added[i] += weight * (hidden @ part["up"]["kernel"][e] + part["up"]["bias"][e])
    close(y, without + 0.1 * added)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(routing["load"], counts / counts.sum(), rtol=1e-5)
    np.testing.assert_allclose(routing["balance"], (probability.mean((0, 1)) * counts / 10).sum(), rtol=1e-4)
    assert ("alpha" in routing) == (router == "blend")
    if router == "blend":
        np.testing.assert_allclose(routing["alpha"], part["router"]["alpha"], rtol=1e-6)


def test_adapters_beside_both_layer_norms_read_the_raw_input():
    """UP-Person computes `MHA(LN1(x) + s1 A1(x))`, `MLP(LN2(h) + s2 A2(h))`."""
    parts = [Adapter(slot, 2, "learned", norm=False) for slot in ("beside_ln_1", "beside_ln_2")]
    variables, x, y, _ = run(*parts)
    p, first, second = variables["params"], *(variables["adapter"][part.slot] for part in parts)
    assert set(first) == {"down", "up", "scale"}
    u = layer_norm(x, **p["ln_1"]) + first["scale"] * oracles.adapter(x, first)
    h = x + oracles.attention(p["attn"], u, ALL, HEADS)
    u = layer_norm(h, **p["ln_2"]) + second["scale"] * oracles.adapter(h, second)
    close(y, h + oracles.mlp(p["mlp"], u))


def test_adapters_after_attention_and_mlp():
    """Houlsby et al. add `A(z)` to a sublayer's output z before the residual connection."""
    parts = [Adapter(slot, 2, 0.5, norm=False) for slot in ("after_attn", "after_mlp")]
    variables, x, y, _ = run(*parts)
    p, first, second = variables["params"], *(variables["adapter"][part.slot] for part in parts)
    z = oracles.attention(p["attn"], layer_norm(x, **p["ln_1"]), ALL, HEADS)
    h = x + z + 0.5 * oracles.adapter(z, first)
    z = oracles.mlp(p["mlp"], layer_norm(h, **p["ln_2"]))
    close(y, h + z + 0.5 * oracles.adapter(z, second))


TARGETS = ("q", "k", "v", "out", "fc", "proj")


PLACE = {"out": ("attn", "out"), "fc": ("mlp", "fc"), "proj": ("mlp", "proj")}
PLACE |= dict.fromkeys("qkv", ("attn", "qkv"))


def kernel_of(attn_and_mlp, target, kernel=None):
    """Returns a target's kernel in a block, or the block with another kernel there."""
    layer, name = PLACE[target]
    whole = attn_and_mlp[layer][name]["kernel"]
    piece = slice("qkv".index(target) * D, ("qkv".index(target) + 1) * D) if name == "qkv" else slice(None)
    if kernel is None:
        return whole[:, piece]
    changed = whole.copy()
    changed[:, piece] = kernel
    inner = {**attn_and_mlp[layer], name: {**attn_and_mlp[layer][name], "kernel": changed}}
    return {**attn_and_mlp, layer: inner}


def leaves_of(collection, target):
    layer, name = PLACE[target]
    return collection[layer][name][f"lora_{target}"]


@pytest.mark.parametrize("scale", ["learned", 0.5])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("targets", [(target,) for target in TARGETS] + [("k", "v"), TARGETS])
def test_lora_updates_the_kernels_of_its_targets(targets, dora, scale):
    """The block uses `W + s A B` in place of W; with DoRA each column has the norm of W's times m."""
    variables, x, y, _ = run(Lora(targets, 3, scale, dora), seed=2)
    p = variables["params"]
    for target in targets:
        part = leaves_of(variables["lora"], target)
        learned = {"scale"} if scale == "learned" else set()
        assert set(part) == {"a", "b"} | learned | ({"magnitude"} if dora else set())
        s = part["scale"] if scale == "learned" else scale
        before = kernel_of(p, target)
        after = before + s * part["a"] @ part["b"]
        if dora:
            after = part["magnitude"] * np.linalg.norm(before, axis=0) * after / np.linalg.norm(after, axis=0)
        p = kernel_of(p, target, after)
    close(y, oracles.block(p, x, ALL, HEADS)[0])


@pytest.mark.parametrize("target", TARGETS)
def test_mixture_of_low_rank_experts(target):
    """Each token has its own kernel, `W + s (w_i A_i B_i + w_j A_j B_j)`, routed by the target's input."""
    variables, x, y, (routing,) = run(LoraMoe((target,), 3, 4, 2, "input", 0.5), seed=3)
    p, part = variables["params"], leaves_of(variables["moe"], target)
    assert routing["load"].shape == (4,)

    def added(u):
        out = np.zeros((*u.shape[:2], part["b"].shape[-1]))
        for i in np.ndindex(*u.shape[:2]):
            for e, weight in oracles.top(u[i] @ part["router"]["w_in"], 2):
                out[i] += 0.5 * weight * (u[i] @ part["a"][:, e] @ part["b"][e])
        return out

    close(y, with_additions(p, x, {target: added}))


def with_additions(p, x, additions):
    """Returns the block's output with a function of each target's input added to the target's output."""

    def linear(layer, u, targets):
        y = u @ layer["kernel"] + layer["bias"]
        gains = [additions[t](u) if t in additions else np.zeros(1) for t in targets]
        if len(targets) == 1:
            return y + gains[0]
        return y + np.concatenate([np.broadcast_to(g, u.shape) for g in gains], axis=-1)

    u = layer_norm(x, **p["ln_1"])
    q, k, v = (oracles.heads_of(z, HEADS) for z in np.split(linear(p["attn"]["qkv"], u, "qkv"), 3, -1))
    seen = oracles.attend(q, k, v, ALL).transpose(0, 2, 1, 3).reshape(x.shape)
    h = x + linear(p["attn"]["out"], seen, ["out"])
    hidden = oracles.quick_gelu(linear(p["mlp"]["fc"], layer_norm(h, **p["ln_2"]), ["fc"]))
    return h + linear(p["mlp"]["proj"], hidden, ["proj"])


@pytest.mark.parametrize("mask", [None, oracles.causal(5)], ids=["all", "causal"])
@pytest.mark.parametrize(("gate", "scaled"), [(10.0, True), (None, True), (None, False), (2.0, False)])
def test_prefix_is_seen_by_every_query(gate, scaled, mask):
    """As in the paper, the softmax's prefix columns are multiplied by the gate and not renormalized."""
    as_array = None if mask is None else jnp.asarray(mask, jnp.float32)
    variables, x, y, _ = run(Prefix(3, gate, scaled), mask=as_array, seed=4)
    p, part = variables["params"], variables["prefix"]["attn"]["prefix"]
    scalars = {"key_scale", "value_scale"} if scaled else set()
    assert set(part) == {"key", "value"} | scalars | ({"gate"} if gate else set())
    u = layer_norm(x, **p["ln_1"])
    q, k, v = np.split(u @ p["attn"]["qkv"]["kernel"] + p["attn"]["qkv"]["bias"], 3, -1)
    tokens = [part[n] * (part[f"{n}_scale"] if scaled else 1) for n in ("key", "value")]
    # After the first token, as in the authors' code.
    k, v = (
        np.concatenate([z[:, :1], np.broadcast_to(t, (2, 3, D)), z[:, 1:]], axis=1)
        for z, t in zip((k, v), tokens, strict=True)
    )
    seen_mask = np.insert(ALL if mask is None else mask, [1] * 3, 0, axis=1)
    gates = np.insert(np.ones(5), [1] * 3, part["gate"] if gate else 1)
    out = oracles.attend(*(oracles.heads_of(z, HEADS) for z in (q, k, v)), seen_mask, gates)
    out = out.transpose(0, 2, 1, 3).reshape(x.shape)
    h = x + out @ p["attn"]["out"]["kernel"] + p["attn"]["out"]["bias"]
    close(y, h + oracles.mlp(p["mlp"], layer_norm(h, **p["ln_2"])))


def test_parts_in_all_slots_do_not_interfere():
    """All parts with zero initialization together leave CLIP's block exactly unchanged."""
    parts = (
        *(Adapter(slot, 2, norm=False) for slot in ("beside_ln_1", "after_attn", "beside_ln_2", "after_mlp")),
        Moe("beside_mlp", 3, 2, 4),
        Lora(("q", "v", "fc"), 2),
        LoraMoe(("k", "out", "proj"), 2, 3),
    )
    x = np.random.default_rng(0).normal(size=(2, 5, D)).astype(np.float32)
    slots = slots_of_block(parts, 0, 1)
    assert len(slots) == 11
    block, bare = (Block(HEADS, MLP, 2, "gelu", EPS, s) for s in (slots, {}))
    # This generator compiles faster than the default one.
    variables = jax.jit(block.init)(jax.random.key(0, impl="unsafe_rbg"), x)
    y, _ = jax.jit(lambda v: block.apply(v, x, mutable=["routing"]))(variables)
    np.testing.assert_array_equal(y, jax.jit(lambda p: bare.apply({"params": p}, x))(variables["params"]))


@pytest.mark.parametrize(
    ("x", "update", "bias", "expected"),
    [
        ([256, 1], [0, 0], -256, 1),  # the product 257 is no bfloat16 number
        ([1, 1], [256, 1], -256, 3),  # nor is the update 257
        ([256, 1], [1, 1], -256, 258),  # 514 - 256 = 258, where 512 - 256 = 256 and 514 is 512 or 516
    ],
)
def test_a_dense_layer_with_low_rank_updates_rounds_once(monkeypatch, x, update, bias, expected):
    """Product, update and bias are added before the result is rounded."""
    monkeypatch.setattr(matmul, "mesh_platform", lambda: "cpu")
    layer = Dense(1, 1.0, (("lora_q", Lora(("q",), rank=2, scale=1.0)),))
    variables = {
        "params": {"kernel": jnp.ones((2, 1)), "bias": jnp.full(1, float(bias))},
        "lora": {"lora_q": {"a": jnp.eye(2), "b": jnp.array(update, jnp.float32)[:, None]}},
    }
    found = layer.apply(variables, jnp.array([[x]], jnp.bfloat16))
    assert found.dtype == jnp.bfloat16 and found.tolist() == [[[expected]]]


def test_a_dense_layer_rounds_once(monkeypatch):
    monkeypatch.setattr(matmul, "mesh_platform", lambda: "cpu")
    params = {"kernel": jnp.ones((2, 1)), "bias": jnp.full(1, -256.0)}
    found = Dense(1, 1.0).apply({"params": params}, jnp.array([[[256, 1]]], jnp.bfloat16))
    assert found.tolist() == [[[1]]]
