"""Properties of every loss, for any features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpr_jax import losses

B, E = 5, 3
PIDS = np.array([2, 0, 2, 1, 0])
PAIRWISE = [name for name in losses.BY_NAME if name != "id"]  # of features and identities alone
by_name = pytest.mark.parametrize("name", PAIRWISE)


@functools.cache
def jitted(name):
    """Returns the loss and its gradients in both features, compiled once for all tests."""
    return jax.jit(jax.value_and_grad(losses.BY_NAME[name], argnums=(0, 1)))


def features(seed, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=(2, B, E))).astype(np.float32)


@by_name
@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 3), min_size=B, max_size=B),
    st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_values_and_gradients_are_finite(name, seed, pids, scale):
    """Holds for any identities, all of one person too, and any length of the features."""
    images, texts = features(seed, scale)
    value, gradients = jitted(name)(images, texts, np.array(pids))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


@by_name
@settings(max_examples=10, deadline=None)
@given(st.permutations(range(B)), st.integers(0, 1000))
def test_order_of_the_batch_does_not_matter(name, order, seed):
    images, texts = features(seed)
    order = np.array(order)
    before, _ = jitted(name)(images, texts, PIDS)
    after, _ = jitted(name)(images[order], texts[order], PIDS[order])
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in PAIRWISE if name not in ("cmpm", "triplet")])
def test_length_of_features_does_not_matter(name):
    images, texts = features(5)
    one, _ = jitted(name)(images, texts, PIDS)
    other, _ = jitted(name)(4 * images, 0.5 * texts, PIDS)
    np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("tiny", [0.0, 1e-30])  # the square of the second is below float32
@by_name
def test_row_of_zeros_has_a_finite_value_and_gradient(name, tiny):
    images, texts = features(6)
    images[1] = texts[3] = tiny
    value, gradients = jitted(name)(images, texts, PIDS)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


def test_l2_normalize_returns_float32_rows_of_length_one():
    rows = losses.l2_normalize(jnp.array([[3.0, 4.0], [0.0, -2.0]], jnp.bfloat16))
    assert rows.dtype == jnp.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, -1]], rtol=1e-6)


def test_l2_normalize_keeps_zeros_and_nan():
    rows = losses.l2_normalize(jnp.array([[0.0, 0.0], [3.0, 4.0], [jnp.nan, 0.0]]))
    np.testing.assert_array_equal(rows[0], 0)
    np.testing.assert_allclose(rows[1], [0.6, 0.8], rtol=1e-6)
    assert np.isnan(rows[2]).all()


def test_l2_normalize_is_exact_for_other_rows():
    rows = np.random.default_rng(7).normal(size=(7, 33)).astype(np.float32)
    plain = jax.value_and_grad(lambda x: (x / jnp.linalg.norm(x, axis=-1, keepdims=True))[:, 0].sum())
    ours = jax.value_and_grad(lambda x: losses.l2_normalize(x)[:, 0].sum())
    for jit in (lambda f: f, jax.jit):
        for found, expected in zip(jit(ours)(rows), jit(plain)(rows), strict=True):
            np.testing.assert_array_equal(found, expected)
