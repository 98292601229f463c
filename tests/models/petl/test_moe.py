"""The mixture against a reference that computes each token's selected experts one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpr_jax.models.petl import moe


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def sparse_mixture(u, logits, top_k, down, up):
    """Loops over tokens, each with its `top_k` experts, in float64."""
    out = np.zeros(u.shape)
    for b, l in np.ndindex(*u.shape[:2]):
        chosen = sorted(range(logits.shape[-1]), key=lambda e: -logits[b, l, e])[:top_k]
        for weight, e in zip(softmax(logits[b, l, chosen]), chosen, strict=True):
            hidden = np.maximum(u[b, l] @ down["kernel"][:, e] + down["bias"][e], 0)
            out[b, l] += weight * (hidden @ up["kernel"][e] + up["bias"][e])
    return out


def part(rng, d, e, r):
    """Returns random weights of a mixture."""
    return (
        {"kernel": rng.normal(size=(d, e, r)), "bias": rng.normal(size=(e, r))},
        {"kernel": rng.normal(size=(e, r, d)), "bias": rng.normal(size=(e, d))},
    )


def float32(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float32), tree)


@functools.partial(jax.jit, static_argnums=4)
def route_and_mix(u, logits, down, up, top_k):
    """Returns the mixture, the weights and the selection, compiled once for each shape."""
    weights, chosen = moe.top_k_gating(logits, top_k)
    return moe.mixture(u, weights, top_k, down, up), weights, chosen


def balance(logits, selected):
    return moe.load_balance(*(rows.mean(0) for rows in moe.routing_means(logits, selected)))


experts_and_k = st.integers(1, 7).flatmap(lambda e: st.tuples(st.just(e), st.integers(1, e)))
shapes = st.sampled_from([(1, 1, 1, 1), (2, 3, 6, 2), (3, 1, 4, 3)])


@settings(max_examples=10, deadline=None)
@given(experts_and_k, shapes, st.integers(0, 99))
def test_mixture_matches_the_sparse_reference(experts, shape, seed):
    (e, k), (b, l, d, r), rng = experts, shape, np.random.default_rng(seed)
    u, logits = rng.normal(size=(b, l, d)), rng.normal(size=(b, l, e))
    down, up = part(rng, d, e, r)
    found, weights, chosen = route_and_mix(*float32((u, logits, down, up)), k)
    np.testing.assert_allclose(found, sparse_mixture(u, logits, k, down, up), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(np.sum(chosen, -1), np.full((b, l), k))
    np.testing.assert_allclose(np.sum(weights, -1), np.ones((b, l)), rtol=1e-6)


def test_top_k_gating_by_hand():
    """The softmax covers the selected logits only: log 3 and 0 give 3/4 and 1/4."""
    logits = jnp.array([[[0.0, np.log(3.0), -1.0, -0.5], [-2.0, -5.0, -2.0 - np.log(4.0), -9.0]]])
    weights, chosen = moe.top_k_gating(logits, 2)
    np.testing.assert_allclose(weights, [[[0.25, 0.75, 0, 0], [0.8, 0, 0.2, 0]]], atol=1e-6)
    np.testing.assert_array_equal(chosen, [[[1, 1, 0, 0], [1, 0, 1, 0]]])


def test_routers_by_hand():
    u = jnp.array([[[1.0, 2.0]]])
    router = {
        "w_in": jnp.array([[1.0, 0.0, -1.0], [2.0, 1.0, 0.5]]),  # W_in u = (5, 2, 0)
        "w_task": jnp.array([[1.0, 1.0, 0.0], [0.0, -1.0, 2.0]]),  # W_task p = (3, 2, 2)
        "prompt": jnp.array([3.0, 1.0]),
        "alpha": jnp.array(0.25),
    }
    expected = {
        "input": [5.0, 2.0, 0.0],
        "sum": [8.0, 4.0, 2.0],
        "blend": [0.75 * 5 + 0.25 * 3, 0.75 * 2 + 0.25 * 2, 0.25 * 2],
    }
    for kind, logits in expected.items():
        np.testing.assert_allclose(moe.router_logits(u, router, kind), [[logits]], rtol=1e-6)


def test_logits_and_weights_are_float32_with_bfloat16_tokens():
    rng = np.random.default_rng(0)
    router = float32(
        {"w_in": rng.normal(size=(4, 3)), "w_task": rng.normal(size=(4, 3)), "prompt": np.ones(4)}
    )
    router["alpha"] = jnp.array(0.5)
    u = jnp.ones((1, 2, 4), jnp.bfloat16)
    logits = moe.router_logits(u, router, "blend")
    weights, _ = moe.top_k_gating(logits, 2)
    assert logits.dtype == weights.dtype == jnp.float32
    down, up = part(rng, 4, 3, 2)
    assert moe.mixture(u, weights, 2, float32(down), float32(up)).dtype == jnp.bfloat16


def test_zero_up_projection_gives_exactly_zero():
    rng = np.random.default_rng(0)
    down, up = part(rng, 4, 3, 2)
    zero = jax.tree.map(np.zeros_like, float32(up))
    u, logits = float32((rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 5, 3))))
    found, _, _ = route_and_mix(u, logits, float32(down), zero, 2)
    np.testing.assert_array_equal(found, np.zeros((2, 5, 4)))


@pytest.mark.parametrize(("e", "k"), [(2, 1), (6, 2), (5, 5), (1, 1)])
def test_load_balance_is_k_over_e_when_balanced(e, k):
    """Each token prefers the next k experts cyclically, so all are used equally."""
    logits = np.zeros((1, e, e), np.float32)
    for token in range(e):
        logits[0, token, [(token + i) % e for i in range(k)]] = 2.0
    value = jax.jit(lambda x: balance(x, moe.top_k_gating(x, k)[1]))(logits)
    np.testing.assert_allclose(value, k / e, rtol=1e-6)


@pytest.mark.parametrize(("d", "n"), [(4, 4), (3, 7)])
def test_low_rank_mixture_is_the_weighted_sum(d, n):
    """Compares with a loop over tokens and experts; the output may be wider than the input."""
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(2, 3, d)), rng.random((2, 3, 5))
    a, b = rng.normal(size=(d, 5, 2)), rng.normal(size=(5, 2, n))
    expected = np.zeros((2, 3, n))
    for i in np.ndindex(2, 3):
        for e in range(5):
            expected[i] += weights[i][e] * (x[i] @ a[:, e] @ b[e])
    found = moe.low_rank_mixture(*float32((x, weights, a, b)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_load_balance_by_hand_when_all_tokens_select_one_expert():
    """P = (3/4, 1/4), C = (1, 0): 2 * (3/4 + 0) / 2."""
    logits = jnp.tile(jnp.array([np.log(3.0), 0.0]), (2, 3, 1))
    _, chosen = moe.top_k_gating(logits, 1)
    np.testing.assert_allclose(balance(logits, chosen), 0.75, rtol=1e-6)


def test_gradient_of_load_balance_flows_through_the_probability_only():
    """Compares with finite differences of `E mean_e(P_e C_e)` with constant C, in float64."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(2, 3, 4))
    _, chosen = moe.top_k_gating(jnp.asarray(logits, jnp.float32), 2)
    load = np.asarray(chosen, np.float64).mean((0, 1))

    def value(x):
        probability = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        return 4 * np.mean(probability.mean((0, 1)) * load)

    expected, h = np.zeros_like(logits), 1e-5
    for i in np.ndindex(*logits.shape):
        step = np.zeros_like(logits)
        step[i] = h
        expected[i] = (value(logits + step) - value(logits - step)) / (2 * h)
    found, by_choice = jax.grad(balance, argnums=(0, 1))(jnp.asarray(logits, jnp.float32), chosen)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(by_choice, np.zeros_like(by_choice))


def test_gradient_of_gating_reaches_the_selected_logits_only():
    """The gradient of a softmax over two logits is w_0 w_1 (1, -1), and 0 for the others."""
    logits = jnp.array([[[0.3, 1.1, -0.4]]])
    gradient = jax.grad(lambda x: moe.top_k_gating(x, 2)[0][0, 0, 1])(logits)
    w = 1 / (1 + np.exp(-0.8))
    np.testing.assert_allclose(gradient, [[[-w * (1 - w), w * (1 - w), 0]]], rtol=1e-5)


@pytest.mark.parametrize("for_tpu", [False, True])
def test_gradients_of_the_mixture_match_finite_differences(for_tpu, monkeypatch):
    """All of them, with differences of the sparse reference in float64, for CPUs and as written for TPUs."""
    monkeypatch.setattr(moe, "is_for_tpu", lambda: for_tpu)
    rng, h, (e, k) = np.random.default_rng(0), 1e-6, (3, 2)
    down, up = part(rng, 4, e, 5)
    at = [rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, e)), down, up]
    cotangent = rng.normal(size=(2, 3, 4))

    def mix(u, logits, down, up):
        return moe.mixture(u, moe.top_k_gating(logits, k)[0], k, down, up)

    found = jax.grad(lambda *a: (mix(*a) * cotangent).sum(), argnums=(0, 1, 2, 3))(*float32(at))
    leaves, tree = jax.tree.flatten(at)
    for i, gradient in enumerate(jax.tree.leaves(found)):
        direction = rng.normal(size=leaves[i].shape)
        moved = ([a + s * direction if j == i else a for j, a in enumerate(leaves)] for s in (h, -h))
        ahead, back = (
            (sparse_mixture(u, logits, k, down, up) * cotangent).sum()
            for u, logits, down, up in (jax.tree.unflatten(tree, m) for m in moved)
        )
        expected = (ahead - back) / (2 * h)
        np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-3, atol=1e-3)


def test_the_mixture_saves_its_hidden_layer_once():
    """Among the residuals, one array has the size of the hidden layer, in the dtype of the tokens."""
    u, weights = jnp.ones((7, 11, 4), jnp.bfloat16), jnp.ones((7, 11, 3))
    down = {"kernel": jnp.ones((4, 3, 5)), "bias": jnp.ones((3, 5))}
    up = {"kernel": jnp.ones((3, 5, 4)), "bias": jnp.ones((3, 4))}
    residuals = jax.tree.leaves(jax.vjp(lambda u, w: moe.mixture(u, w, 2, down, up), u, weights)[1])
    assert [leaf.dtype for leaf in residuals if leaf.size == 7 * 11 * 15] == [jnp.bfloat16]


def test_routing_statistics_of_a_batch_are_means_over_its_rows():
    """Blocks return them for each row, so that a mesh does not exchange them in each block."""
    logits = jnp.log(jnp.array([[[1.0, 3.0, 4.0]] * 2, [[6.0, 1.0, 1.0], [1.0, 6.0, 1.0]]]))
    _, selected = moe.top_k_gating(logits, 1)
    probability, chosen = moe.routing_means(logits, selected)
    np.testing.assert_allclose(probability, [[1 / 8, 3 / 8, 1 / 2], [7 / 16, 7 / 16, 1 / 8]], rtol=1e-6)
    np.testing.assert_allclose(chosen, [[0, 0, 1], [0.5, 0.5, 0]])
    found = moe.batch_statistics({"probability": probability, "chosen": chosen, "alpha": jnp.array(0.3)})
    np.testing.assert_allclose(found["probability"], [9 / 32, 13 / 32, 5 / 16], rtol=1e-6)
    np.testing.assert_allclose(found["load"], [0.25, 0.25, 0.5])
    np.testing.assert_allclose(found["balance"], 9 / 128 + 13 / 128 + 5 / 32, rtol=1e-6)
    assert found["alpha"] == jnp.float32(0.3)
