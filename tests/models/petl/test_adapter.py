"""The adapter worked by hand, and the bounds of its initial values."""

import jax
import jax.numpy as jnp
import numpy as np

from tpr_jax.models.petl.adapter import adapter, kaiming_uniform


def test_adapter_by_hand():
    u = jnp.array([[[1.0, 2.0], [-1.0, 3.0]]])
    down = {"kernel": jnp.array([[1.0, -1.0], [0.5, 1.0]]), "bias": jnp.array([-1.0, 0.5])}
    up = {"kernel": jnp.array([[2.0, 0.0], [1.0, -3.0]]), "bias": jnp.array([0.1, 0.2])}
    # Down projections: (1 + 1 - 1, -1 + 2 + 0.5) = (1, 1.5) of the first token, and of the second
    # (-0.5, 4.5) -> (0, 4.5).
    expected = [[[2 + 1.5 + 0.1, -4.5 + 0.2], [4.5 + 0.1, -13.5 + 0.2]]]
    np.testing.assert_allclose(adapter(u, down, up), expected, rtol=1e-6)


def test_adapter_computes_in_the_dtype_of_its_input():
    down = {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}
    up = {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(4)}
    assert adapter(jnp.ones((1, 3, 4), jnp.bfloat16), down, up).dtype == jnp.bfloat16


def test_kaiming_uniform_fills_its_bounds_evenly():
    """Checks the bounds +-1/sqrt(d), the variance d^-1 / 3 and the quartiles."""
    d = 16
    values = np.asarray(kaiming_uniform(d)(jax.random.key(0), (d, 6, 500)))
    assert values.shape == (d, 6, 500) and values.dtype == np.float32
    bound = 0.25
    assert np.abs(values).max() <= bound and np.abs(values).max() > 0.999 * bound
    np.testing.assert_allclose(np.quantile(values, [0.25, 0.5, 0.75]), [-0.125, 0, 0.125], atol=4e-3)
    np.testing.assert_allclose(values.var(), bound**2 / 3, rtol=0.02)
