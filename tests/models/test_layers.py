"""CLIP's layers against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
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
    """The mean is not a bfloat16 number and the differences are small; only the final rounding may show."""
    x = jnp.asarray(4 + 0.2 * np.random.default_rng(0).normal(size=(20, D)), jnp.bfloat16)
    found = layers.layer_norm(x, jnp.ones(D), jnp.zeros(D), oracles.EPS)
    assert found.dtype == jnp.bfloat16
    expected = oracles.layer_norm(np.asarray(x, np.float64), 1, 0)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2.0**-8, atol=1e-5)


@pytest.mark.parametrize("name", ["gelu", "quick_gelu"])
def test_activations_of_bfloat16_compute_in_float32(name):
    """Only the final rounding to 8 bits may show."""
    x = jnp.asarray(np.linspace(-4, 4, 333), jnp.bfloat16)
    found = layers.ACTIVATIONS[name](x)
    assert found.dtype == jnp.bfloat16
    expected = getattr(oracles, name)(np.asarray(x, np.float64))
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=1.001 * 2.0**-8, atol=1e-6)


@pytest.mark.parametrize("name", ["gelu", "quick_gelu"])
def test_gradients_of_activations(name):
    """Compares with finite differences of the oracle, in bfloat16 up to its rounding."""
    x, h = np.linspace(-4, 4, 33), 1e-5
    oracle = getattr(oracles, name)
    expected = (oracle(x + h) - oracle(x - h)) / (2 * h)
    for dtype, close in ((jnp.float32, 1e-5), (jnp.bfloat16, 2.0**-6)):
        found = jax.grad(lambda x: layers.ACTIVATIONS[name](x).astype(jnp.float32).sum())(jnp.array(x, dtype))
        assert found.dtype == dtype
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=close, atol=close)


@pytest.mark.parametrize("of", [0, 1, 2], ids=["x", "scale", "bias"])
def test_gradients_of_layer_norm(of):
    """Compares directional derivatives with finite differences of the oracle."""
    rng = np.random.default_rng(of)
    at = [3 + 5 * rng.normal(size=(2, 3, D)), rng.normal(size=D), rng.normal(size=D)]
    direction, weights, h = rng.normal(size=at[of].shape), rng.normal(size=(2, 3, D)), 1e-5

    def moved(step):
        return [a + step * direction if i == of else a for i, a in enumerate(at)]

    ahead, back = ((weights * oracles.layer_norm(*moved(step))).sum() for step in (h, -h))

    def weighed(*arguments):
        return (weights.astype(np.float32) * layers.layer_norm(*arguments, oracles.EPS)).sum()

    found = jax.grad(weighed, argnums=of)(*(jnp.asarray(a, jnp.float32) for a in at))
    np.testing.assert_allclose((found * direction).sum(), (ahead - back) / (2 * h), rtol=1e-4)


def test_saves_only_the_inputs_for_the_backward_pass():
    """The residual is one array in the input's dtype; by default JAX would save several in float32."""
    x = jnp.ones((4, D), jnp.bfloat16)
    for function in (layers.quick_gelu, lambda x: layers.layer_norm(x, jnp.ones(D), jnp.zeros(D), 1e-5)):
        kept = [leaf for leaf in jax.tree.leaves(jax.vjp(function, x)[1]) if leaf.shape == x.shape]
        assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]
