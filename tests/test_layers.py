"""CLIP's layers against NumPy in float64."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from tpr_jax.models import layers

D = 8


@pytest.mark.parametrize("name", ["gelu", "quick_gelu"])
def test_activations(name):
    x = np.linspace(-4, 4, 33)
    found = layers.ACTIVATIONS[name](jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, getattr(oracles, name)(x), rtol=1e-5, atol=1e-6)


def test_layer_norm():
    rng = np.random.default_rng(0)
    x, scale, bias = 3 + 5 * rng.normal(size=(2, 3, D)), rng.normal(size=D), rng.normal(size=D)
    found = layers.layer_norm(*(jnp.asarray(a, jnp.float32) for a in (x, scale, bias)), 0.5)
    np.testing.assert_allclose(found, oracles.layer_norm(x, scale, bias, 0.5), rtol=1e-5, atol=1e-5)


def test_layer_norm_of_bfloat16_computes_in_float32():
    """A mean that is no bfloat16 number, beside small differences; only the last rounding may show."""
    x = jnp.asarray(4 + 0.2 * np.random.default_rng(0).normal(size=(20, D)), jnp.bfloat16)
    found = layers.layer_norm(x, jnp.ones(D), jnp.zeros(D), oracles.EPS)
    assert found.dtype == jnp.bfloat16
    expected = oracles.layer_norm(np.asarray(x, np.float64), 1, 0)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2.0**-8, atol=1e-5)


@pytest.mark.parametrize("mask", [np.zeros((5, 5)), oracles.causal(5)], ids=["all", "causal"])
def test_attention(mask):
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 3, 5, 4))
    found = layers.attend(*(jnp.asarray(a, jnp.float32) for a in (q, k, v, mask)))
    np.testing.assert_allclose(found, oracles.attend(q, k, v, mask), rtol=1e-4, atol=1e-5)


def test_heads_there_and_back():
    x = np.arange(2 * 3 * D).reshape(2, 3, D)
    split = layers.split_heads(jnp.asarray(x), 2)
    np.testing.assert_array_equal(split, oracles.heads_of(x, 2))
    np.testing.assert_array_equal(split[1, 1, 2], x[1, 2, 4:])
    np.testing.assert_array_equal(layers.join_heads(split), x)
