"""The grouped mixture against loops over tokens, and against the dense mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.petl.test_moe import float32, part, sparse_mixture
from tpr_jax.models.petl import grouped, moe

sort = jax.jit(grouped.sort_by_expert, static_argnums=(1, 2))
sizes = st.sampled_from([(9, 7, 3, 4), (5, 4, 1, 2), (6, 3, 3, 1), (1, 1, 1, 4)])  # tokens, experts, k, block


@settings(max_examples=25, deadline=None)
@given(sizes, st.integers(0, 99))
def test_each_selection_has_a_row_in_a_block_of_its_expert(size, seed):
    (t, e, k, block), rng = size, np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(e)[:k] for _ in range(t)])
    place, source, expert = (np.asarray(x) for x in sort(chosen, e, block))
    assert len(source) == len(expert) * block == grouped.padded_rows(t, e, k, block)
    assert len(np.unique(place)) == t * k
    np.testing.assert_array_equal(expert[place // block], chosen)
    np.testing.assert_array_equal(source[place], np.arange(t * k).reshape(t, k))
    assert (np.delete(source, place.ravel()) == t * k).all()


def test_all_tokens_may_select_the_same_expert():
    """One expert needs the most blocks, and the others' are empty."""
    place, _, expert = sort(np.full((10, 1), 2), 4, 4)
    np.testing.assert_array_equal(place.ravel(), np.arange(10))
    np.testing.assert_array_equal(expert[:3], [2, 2, 2])


def test_selected_experts_with_zero_weights():
    weights = jnp.array([[0.0, 1.0, 0.0], [0.25, 0.0, 0.75], [0.5, 0.5, 0.0]])
    found = np.sort(grouped.selected_experts(weights, 2), -1)
    np.testing.assert_array_equal(found, [[0, 1], [0, 2], [0, 1]])


@pytest.mark.parametrize(("e", "k", "block"), [(6, 2, 4), (5, 1, 8), (3, 3, 2)])
def test_grouped_mixture_matches_the_sparse_reference(e, k, block):
    rng = np.random.default_rng(e)
    u, logits, (down, up) = rng.normal(size=(1, 17, 6)), rng.normal(size=(1, 17, e)), part(rng, 6, e, 4)
    weights, _ = moe.top_k_gating(*float32((logits,)), k)
    found = grouped.mixture(*float32((u[0],)), weights[0], k, float32(down), float32(up), block)
    np.testing.assert_allclose(found, sparse_mixture(u, logits, k, down, up)[0], rtol=1e-4, atol=1e-5)


def many(dtype="float32"):
    """Returns tokens, logits and experts for which grouping pays off: 1 or 2 of 40 selected."""
    rng = np.random.default_rng(0)
    u, logits = float32((rng.normal(size=(2, 500, 8)), rng.normal(size=(2, 500, 40))))
    return jnp.asarray(u, dtype), logits, *float32(part(rng, 8, 40, 4))


def gradients(pays, monkeypatch, top_k, u, *rest):
    """Returns the gradients in all inputs of a mixture, grouped or dense."""
    monkeypatch.setattr(moe, "use_grouped", lambda *sizes: pays)
    weigh = np.random.default_rng(1).normal(size=u.shape)

    def value(u, logits, down, up):
        return (moe.mixture(u, moe.top_k_gating(logits, top_k)[0], top_k, down, up) * weigh).sum()

    return jax.tree.leaves(jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(u, *rest))


@pytest.mark.parametrize("top_k", [1, 2])
def test_gradients_match_the_dense_mixture(top_k, monkeypatch):
    found, expected = (gradients(pays, monkeypatch, top_k, *many()) for pays in (True, False))
    assert len(found) == 6
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_bfloat16_keeps_float32_gradients_of_the_experts(monkeypatch):
    found, expected = (gradients(True, monkeypatch, 2, *many(dtype)) for dtype in ("bfloat16", "float32"))
    assert [leaf.dtype for leaf in found] == [jnp.bfloat16] + [jnp.float32] * 5
    for one, other in zip(found, expected, strict=True):
        one = np.asarray(one, np.float32)
        assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(other)


def test_is_used_only_where_it_pays_off():
    """1,000 tokens with 1 of 40 experts take 3,584 rows instead of 40,000; 2 of 6 experts never pay off."""
    assert grouped.padded_rows(1000, 40, 1) == 3584 and moe.use_grouped(1000, 40, 1)
    assert not any(moe.use_grouped(tokens, 6, 2) for tokens in (1, 77, 1544, 10**6))
    assert not moe.use_grouped(77, 40, 1)
    for devices, used in ((1, True), (2, False)):
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((devices,), ("data",))):
            assert moe.use_grouped(1000, 40, 1) == used


def test_export_with_a_symbolic_batch_computes_all_experts():
    """The number of tokens is unknown there."""
    u, logits, down, up = many()

    def mix(u, logits):
        return moe.mixture(u, moe.top_k_gating(logits, 1)[0], 1, down, up)

    (b,) = jax.export.symbolic_shape("b")
    given = [jax.ShapeDtypeStruct((b, *x.shape[1:]), x.dtype) for x in (u, logits)]
    found = jax.export.export(jax.jit(mix))(*given).call(u, logits)
    np.testing.assert_allclose(found, mix(u, logits), rtol=1e-4, atol=1e-5)


def test_mixture_of_many_experts_matches_the_sparse_reference():
    u, logits, down, up = many()
    found = moe.mixture(u, moe.top_k_gating(logits, 1)[0], 1, down, up)
    double = [jax.tree.map(lambda x: np.asarray(x, np.float64), tree) for tree in (u, logits, down, up)]
    np.testing.assert_allclose(
        found, sparse_mixture(double[0], double[1], 1, double[2], double[3]), rtol=1e-3, atol=1e-4
    )
