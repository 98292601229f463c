"""Low-rank updates against plain NumPy, and numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpr_jax.models.petl import lora


def piece(rng, d, rank, width, scale=0.5, **more):
    return {"a": rng.normal(size=(d, rank)), "b": rng.normal(size=(rank, width)), "scale": scale, **more}


def float32(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float32), tree)


@pytest.mark.parametrize("held", [(0,), (1,), (0, 2), (0, 1, 2)], ids=str)
def test_delta_changes_only_blocks_with_an_update(held):
    """Ranks may differ; each block with an update gets `scale * x A B`, the others nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 6))
    pieces = [piece(rng, 6, 2 + i, 4, 0.5 + i) if i in held else None for i in range(3)]
    found = lora.delta(*float32((x, pieces)), 4)
    expected = [np.zeros((2, 3, 4)) if p is None else p["scale"] * x @ p["a"] @ p["b"] for p in pieces]
    np.testing.assert_allclose(found, np.concatenate(expected, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("held", "blocks"), [((1, 2), 2), ((0,), 1), ((0, 2), 3)], ids=str)
def test_delta_computes_no_columns_outside_the_updates(held, blocks):
    """UP-Person updates keys and values, so the product has no columns for the queries."""
    rng = np.random.default_rng(0)
    pieces = [float32(piece(rng, 6, 2, 4)) if i in held else None for i in range(3)]
    program = jax.make_jaxpr(lambda x: lora.delta(x, pieces, 4))(jnp.ones((5, 7, 6)))
    assert program.out_avals[0].shape == (5, 7, 12)
    (call, *_) = [one for one in reversed(program.eqns) if "custom_vjp" in one.primitive.name]
    assert call.outvars[0].aval.shape == (5, 7, 4 * blocks)


def test_delta_by_hand():
    """x = (1, 2), A = (3, 4)^T, B = (5, 6): x A = 11; times B and the scale 1/2, (27.5, 33)."""
    one = {"a": jnp.array([[3.0], [4.0]]), "b": jnp.array([[5.0, 6.0]]), "scale": 0.5}
    found = lora.delta(jnp.array([[[1.0, 2.0]]]), [one], 2)
    np.testing.assert_allclose(found, [[[27.5, 33.0]]])


def test_delta_rounds_only_where_asked():
    """257 is no bfloat16 number."""
    one = {"a": jnp.array([[1.0], [1.0]]), "b": jnp.array([[1.0]]), "scale": 1.0}
    pair = {"a": jnp.eye(2), "b": jnp.array([[1.0], [1.0]]), "scale": 1.0}  # 257 by the second product
    x = jnp.array([[[256, 1]]], jnp.bfloat16)
    for update, dtype, expected in ((one, jnp.float32, 256), (pair, jnp.float32, 257), (pair, None, 256)):
        found = lora.delta(x, [update], 1, dtype)
        assert found.dtype == (dtype or jnp.bfloat16) and found.tolist() == [[[expected]]]


def test_merge_kernel_agrees_with_delta():
    rng = np.random.default_rng(1)
    x, kernel, one = rng.normal(size=(1, 4, 6)), rng.normal(size=(6, 3)), piece(rng, 6, 2, 3)
    x, kernel, one = float32((x, kernel, one))
    np.testing.assert_allclose(
        x @ lora.merge_kernel(kernel, one), x @ kernel + lora.delta(x, [one], 3), rtol=1e-4, atol=1e-5
    )


def test_magnitude_by_hand():
    """W's column (3, 4) of norm 5 becomes (6, 8) by A B; m = 2 gives the norm 2 * 5 = 10, which it has."""
    kernel = jnp.array([[3.0, 1.0], [4.0, 0.0]])
    one = {"a": jnp.eye(2), "b": jnp.array([[3.0, 0.0], [4.0, 1.0]]), "scale": 1.0}
    one["magnitude"] = jnp.array([2.0, 3.0])
    # The second column: |(1, 0)| = 1, |(1, 1)| = sqrt 2.
    np.testing.assert_allclose(lora.magnitude_ratio(kernel, one), [2 * 5 / 10, 3 / 2**0.5], rtol=1e-6)
    expected = [[6.0, 3 / 2**0.5], [8.0, 3 / 2**0.5]]
    np.testing.assert_allclose(lora.merge_kernel(kernel, one), expected, rtol=1e-6)


def test_merged_columns_have_the_learned_norms():
    rng = np.random.default_rng(2)
    kernel = rng.normal(size=(6, 3))
    one = piece(rng, 6, 2, 3, magnitude=np.array([1.0, 2.0, 0.5]))
    lengths = np.linalg.norm(lora.merge_kernel(*float32((kernel, one))), axis=0)
    np.testing.assert_allclose(lengths, np.linalg.norm(kernel, axis=0) * [1, 2, 0.5], rtol=1e-5)


def test_norm_is_constant_in_the_gradient():
    """As in DoRA's section 4.3, the gradient is that of `ratio * (W + A B)` with a constant ratio."""
    rng = np.random.default_rng(3)
    kernel, one, weight = float32(
        (rng.normal(size=(6, 3)), piece(rng, 6, 2, 3, magnitude=np.ones(3)), rng.normal(size=(6, 3)))
    )
    gradient = jax.grad(lambda b: (weight * lora.merge_kernel(kernel, {**one, "b": b})).sum())(one["b"])
    ratio = lora.magnitude_ratio(kernel, one)
    held = 0.5 * one["a"].T @ (weight * ratio)
    np.testing.assert_allclose(gradient, held, rtol=1e-4, atol=1e-5)
