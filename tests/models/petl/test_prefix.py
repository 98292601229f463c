"""Prefix tokens: S-Prefix as in its paper against gated values; scalars; masks."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tpr_jax.models.attention import attend
from tpr_jax.models.petl import prefix

B, H, L, M, C = 2, 2, 4, 3, 5


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    q, k, v = rng.normal(size=(3, B, H, L, C))
    leaves = {"key": rng.normal(size=(M, H * C)), "value": rng.normal(size=(M, H * C))}
    return q, k, v, leaves | {"key_scale": 1.5, "value_scale": -0.5, "gate": 10.0}


def float32(x):
    return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize("gate", [10.0, 0.0, None])
@pytest.mark.parametrize("mask", [None, oracles.causal(L)], ids=["all", "causal"])
def test_gate_on_the_softmax_equals_gate_on_the_values(mask, gate):
    q, k, v, leaves = inputs()
    leaves.pop("gate")
    leaves |= {} if gate is None else {"gate": gate}
    key, value = prefix.prefix_tokens({name: float32(leaf) for name, leaf in leaves.items()})
    keys, values = (prefix.with_prefix(t, float32(x)) for t, x in ((key, k), (value, v)))
    masked = prefix.mask_with_prefix(None if mask is None else float32(mask), M)
    found = attend(float32(q), keys, values, masked)
    # The oracle multiplies columns of the softmax and puts the prefix after all other tokens.
    heads = [np.moveaxis((leaves[n] * leaves[f"{n}_scale"]).reshape(M, H, C), 0, 1) for n in ("key", "value")]
    k, v = (
        np.concatenate([x, np.broadcast_to(t, (B, H, M, C))], axis=2)
        for x, t in zip((k, v), heads, strict=True)
    )
    seen = np.concatenate([np.zeros((L, L)) if mask is None else mask, np.zeros((L, M))], axis=1)
    gates = np.concatenate([np.ones(L), np.full(M, 1.0 if gate is None else gate)])
    np.testing.assert_allclose(found, oracles.attend(q, k, v, seen, gates), rtol=1e-4, atol=1e-5)


def test_missing_scalars_are_one():
    _, _, _, leaves = inputs()
    plain = {name: float32(leaves[name]) for name in ("key", "value")}
    for name, tokens in zip(("key", "value"), prefix.prefix_tokens(plain), strict=True):
        np.testing.assert_array_equal(tokens, plain[name])
    key, value = prefix.prefix_tokens({**plain, "key_scale": 2.0, "value_scale": 3.0, "gate": 5.0})
    np.testing.assert_allclose(key, 2 * plain["key"])
    np.testing.assert_allclose(value, 15 * plain["value"], rtol=1e-6)


def test_prefix_tokens_are_split_into_heads_and_come_first():
    tokens = jnp.arange(M * H * C, dtype=jnp.float32).reshape(M, H * C)
    found = prefix.with_prefix(tokens, jnp.full((B, H, L, C), -1.0))
    assert found.shape == (B, H, M + L, C)
    for b, h, m in np.ndindex(B, H, M):
        np.testing.assert_array_equal(found[b, h, m], tokens[m, h * C : (h + 1) * C])
    assert (found[:, :, M:] == -1).all()


def test_mask_shows_the_prefix_to_every_query():
    assert prefix.mask_with_prefix(None, 2) is None
    found = prefix.mask_with_prefix(jnp.array([[0.0, -jnp.inf], [0.0, 0.0]]), 2)
    np.testing.assert_array_equal(found, [[0, 0, 0, -np.inf], [0, 0, 0, 0]])
