"""What holds of every loss, whatever the features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpr_jax import losses

PAIRWISE = [name for name in losses.BY_NAME if name != "id"]  # of features and identities alone


def some_features(rows, width=4):
    return np.random.default_rng(rows).normal(size=(2, rows, width)).astype(np.float32)


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("tiny", [0.0, 1e-30])  # the square of the second is below float32
@pytest.mark.parametrize("name", PAIRWISE)
def test_a_row_of_zeros_has_a_finite_value_and_gradient(name, tiny, jit):
    images, texts = some_features(5)
    images[1] = texts[3] = tiny
    pids = jnp.array([0, 1, 0, 2, 1])
    value, gradients = jit(jax.value_and_grad(losses.BY_NAME[name], argnums=(0, 1)))(images, texts, pids)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


def test_normalising_leaves_zeros_and_hides_no_nan():
    rows = losses.l2_normalise(jnp.array([[0.0, 0.0], [3.0, 4.0], [jnp.nan, 0.0]]))
    np.testing.assert_array_equal(rows[0], 0)
    np.testing.assert_allclose(rows[1], [0.6, 0.8], rtol=1e-6)
    assert np.isnan(rows[2]).all()


def test_the_other_rows_are_divided_by_their_length_to_the_last_bit():
    rows = some_features(7, 33)[0]
    plain = jax.value_and_grad(lambda x: (x / jnp.linalg.norm(x, axis=-1, keepdims=True))[:, 0].sum())
    ours = jax.value_and_grad(lambda x: losses.l2_normalise(x)[:, 0].sum())
    for jit in (lambda f: f, jax.jit):
        for found, expected in zip(jit(ours)(rows), jit(plain)(rows), strict=True):
            np.testing.assert_array_equal(found, expected)
