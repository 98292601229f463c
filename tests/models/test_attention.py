"""Attention against NumPy in float64: the reference, and the call of cuDNN."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tpr_jax.models import attention

SHAPE = B, H, L, C = 2, 3, 5, 8
M = 7  # keys
MASKS = {
    "all": np.zeros((L, M)),
    "causal": np.pad(oracles.causal(L), ((0, 0), (M - L, 0))),  # after a prefix that all queries see
}


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=SHAPE), *rng.normal(size=(2, B, H, M, C))


def float32(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def by_xla(q, k, v, mask):
    """Computes the fused call by XLA, which runs anywhere."""
    assert mask is None
    return attention.fused_attention(q, k, v, "xla")


@pytest.mark.parametrize("mask", MASKS)
def test_attention_matches_numpy(mask):
    found = attention.attend(*float32(*inputs(), MASKS[mask]))
    np.testing.assert_allclose(found, oracles.attend(*inputs(), MASKS[mask]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", [attention.attend, by_xla])
def test_no_mask(function):
    q, k, v = inputs()
    expected = oracles.attend(q, k, v, np.zeros((L, M)))
    np.testing.assert_allclose(function(*float32(q, k, v), None), expected, rtol=1e-4, atol=1e-5)


def test_accepts_a_mask_for_each_row():
    q, k, v = inputs()
    masks = np.where(np.random.default_rng(1).random((B, 1, L, M)) < 0.3, -np.inf, 0)
    masks[..., 0] = 0  # every query has a key
    found = attention.attend(*float32(q, k, v, masks))
    for row in range(B):
        expected = oracles.attend(*(a[row : row + 1] for a in (q, k, v)), masks[row, 0])
        np.testing.assert_allclose(found[row : row + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "mask"),
    [(attention.attend, "all"), (attention.attend, "causal"), (by_xla, "all")],
)
@pytest.mark.parametrize("of", [0, 1, 2], ids="qkv")
def test_gradients_match_finite_differences(of, function, mask):
    """Compares directional derivatives with finite differences of the oracle."""
    rng, at, h = np.random.default_rng(of), inputs(), 1e-5
    direction, weights = rng.normal(size=at[of].shape), rng.normal(size=SHAPE)

    def weighed(step):
        moved = [a + step * direction if i == of else a for i, a in enumerate(at)]
        return (weights * oracles.attend(*moved, MASKS[mask])).sum()

    def ours(*arrays):
        seen = None if mask == "all" else float32(MASKS[mask])[0]
        return (weights.astype(np.float32) * function(*arrays, seen)).sum()

    found = jax.grad(ours, argnums=of)(*float32(*at))
    expected = (weighed(h) - weighed(-h)) / (2 * h)
    np.testing.assert_allclose((found * direction).sum(), expected, rtol=1e-3, atol=1e-4)


def test_bfloat16_differs_by_its_rounding():
    at, weights = float32(*inputs()), float32(np.random.default_rng(3).normal(size=SHAPE))[0]

    def slopes(dtype):
        arrays = [a.astype(dtype) for a in at]
        return jax.grad(lambda *a: (weights * attention.attend(*a, None)).sum(), argnums=(0, 1, 2))(*arrays)

    for rounded, exact in zip(slopes(jnp.bfloat16), slopes(jnp.float32), strict=True):
        assert rounded.dtype == jnp.bfloat16
        assert np.linalg.norm(rounded.astype(jnp.float32) - exact) < 0.02 * np.linalg.norm(exact)


def test_saves_the_softmax_once_in_the_dtype_of_the_inputs():
    at = [a.astype(jnp.bfloat16) for a in float32(*inputs())]
    _, pull = jax.vjp(attention.attend, *at, None)
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.shape == (B, H, L, M)]
    assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]


def test_join_heads_inverts_split_heads():
    x = np.arange(2 * 3 * 8.0).reshape(2, 3, 8)
    split = attention.split_heads(jnp.asarray(x), 2)
    np.testing.assert_array_equal(split, oracles.heads_of(x, 2))
    np.testing.assert_array_equal(split[1, 1, 2], x[1, 2, 4:])
    np.testing.assert_array_equal(attention.join_heads(split), x)


@pytest.fixture
def asked_anew():
    attention.fused_attention_works.cache_clear()
    yield
    attention.fused_attention_works.cache_clear()


def test_uses_the_fused_kernel_only_if_it_runs_and_agrees(monkeypatch, asked_anew):
    """XLA stands in for cuDNN, which needs a GPU."""
    assert attention.fused_attention_works() == (jax.default_backend() == "gpu")
    attention.fused_attention_works.cache_clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    inside = []
    jax.jit(lambda x: inside.append(attention.fused_attention_works("xla")) or x)(
        jnp.ones(3)
    )  # while tracing
    assert inside == [True]
    if not any(device.platform == "gpu" for device in jax.devices()):
        assert not attention.fused_attention_works("cudnn")
    attention.fused_attention_works.cache_clear()
    real = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, **b: 1.1 * real(*a, **b))
    assert not attention.fused_attention_works("xla")


def test_traced_with_a_gpu_and_run_on_a_cpu_uses_the_reference(monkeypatch):
    """Only the branch of the local platform is compiled."""
    monkeypatch.setattr(attention, "_uses_fused_attention", lambda: True)
    monkeypatch.setattr(
        attention, "fused_attention", lambda q, k, v: attention.reference_attention(q, k, v, None) + 1
    )
    q, k, v = np.random.default_rng(0).normal(size=(3, B, H, 16, C))
    at = [jnp.asarray(a, jnp.bfloat16) for a in (q, k, v)]
    found = jax.jit(attention.attend)(*at, None).astype(jnp.float32)
    shift = 1 if jax.default_backend() == "gpu" else 0
    exact = oracles.attend(*(np.asarray(a, np.float64) for a in at), np.zeros((16, 16)))
    np.testing.assert_allclose(found, exact + shift, atol=0.03)


@pytest.mark.parametrize(
    ("backend", "mesh", "works", "compiles", "used"),
    [
        ("gpu", None, True, False, True),
        ("gpu", "gpu", False, True, False),  # it was tried here, and failed
        ("cpu", "gpu", False, True, True),  # compiled for a GPU that is not here
        ("cpu", "gpu", True, False, False),
        ("cpu", None, True, True, False),
        ("cpu", "tpu", True, True, False),
    ],
)
def test_the_fused_kernel_is_for_gpus(monkeypatch, backend, mesh, works, compiles, used):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(attention, "mesh_platform", lambda: mesh)
    monkeypatch.setattr(attention, "fused_attention_works", lambda: works)
    monkeypatch.setattr(attention, "fused_attention_compiles", lambda: compiles)
    x = jnp.zeros((1, 1, 16, 64), jnp.bfloat16)
    fused = []
    monkeypatch.setattr(attention, "fused_attention", lambda q, k, v: fused.append(1) or q)
    jax.eval_shape(functools.partial(attention.attend, mask=None), x, x, x)
    assert bool(fused) == used


@pytest.mark.parametrize(
    ("queries", "dtype", "masked", "used"),
    [
        (16, jnp.bfloat16, False, True),
        (16, jnp.bfloat16, True, False),
        (16, jnp.float32, False, False),
        (8, jnp.bfloat16, False, False),  # the last block's
    ],
)
def test_the_fused_kernel_is_for_bfloat16_without_a_mask(monkeypatch, queries, dtype, masked, used):
    monkeypatch.setattr(attention, "_uses_fused_attention", lambda: True)
    fused = []
    monkeypatch.setattr(attention, "fused_attention", lambda q, k, v: fused.append(1) or q)
    q, k = (jnp.zeros((1, 1, n, 64), dtype) for n in (queries, 16))
    mask = jnp.zeros((queries, 16)) if masked else None
    jax.eval_shape(functools.partial(attention.attend, mask=mask), q, k, k)
    assert bool(fused) == used


def test_the_fused_kernel_compiles_where_cudnn_is_installed():
    """Asked while a program for a mesh is traced; `test_gpus` compiles with the library."""
    if importlib.util.find_spec("jax_cuda12_plugin") is not None:
        pytest.skip("JAX's CUDA plugin is installed")
    mesh, inside = jax.sharding.AbstractMesh((2,), ("data",)), []
    attention.fused_attention_compiles.cache_clear()
    with jax.sharding.use_abstract_mesh(mesh):
        jax.eval_shape(lambda x: inside.append(attention.fused_attention_compiles()) or x, jnp.ones(3))
    assert inside == [False]


@pytest.mark.parametrize("shape", [(4, 12, 193, 203, 64), (4, 8, 77, 77, 64), (2, 2, 9, 16, 32)])
def test_cudnn_matches_the_reference(shape):
    """Compares results and gradients at the towers' sizes, with unaligned numbers of queries and keys."""
    if not attention.fused_attention_works():
        pytest.skip("no GPU with cuDNN's attention here")
    b, h, l, m, c = shape
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(b, h, n, c)).astype(np.float32) for n in (l, m, m)]
    weights = rng.normal(size=(b, h, l, c)).astype(np.float32)

    def all_of(function, dtype):
        arguments = [jnp.asarray(a, jnp.bfloat16).astype(dtype) for a in arrays]
        run = jax.jit(jax.value_and_grad(lambda *a: (weights * function(*a, None)).sum(), (0, 1, 2)))
        out = jax.jit(function)(*arguments, None)
        return [np.asarray(x, np.float64) for x in (out, *run(*arguments)[1])]

    exact = all_of(attention.reference_attention, jnp.float32)
    kernel, written = (all_of(f, jnp.bfloat16) for f in (attention.attend, attention.reference_attention))
    for one, other, true in zip(kernel, written, exact, strict=True):
        size = np.linalg.norm(true)
        assert np.linalg.norm(one - true) < max(2 * np.linalg.norm(other - true), 1e-3 * size)
    text = jax.jit(attention.attend).lower(*(jnp.zeros(a.shape, jnp.bfloat16) for a in arrays), None)
    assert "cudnn" in text.compile().as_text()
