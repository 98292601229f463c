"""The TPU kernel of attention, interpreted: against NumPy in float64, and against the reference on a mesh."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from tests.conftest import ROOT, forced_devices
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.models import attention, tpu_attention

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}

cases = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 3),
        "tokens": st.integers(1, 17),
        "width": st.sampled_from([128, 128, 256]),
        "size": st.sampled_from([64, 64, 128]),
        "prefix": st.integers(0, 5),
        "mask": st.sampled_from(["none", "causal", "random"]),
        "seed": st.integers(0, 99),
    }
)


def draw(case: dict):
    """Returns (qkv, prefix, mask, the cotangent of the output) in float64; every query sees its own key."""
    rng = np.random.default_rng(case["seed"])
    rows, tokens, width = case["rows"], case["tokens"], case["width"]
    random = np.where((rng.random((tokens, tokens)) < 0.5) & ~np.eye(tokens, dtype=bool), -np.inf, 0.0)
    mask = {"none": None, "causal": oracles.causal(tokens), "random": random}[case["mask"]]
    prefix = rng.normal(size=(2, case["prefix"], width)) if case["prefix"] else None
    qkv, g = rng.normal(size=(rows, tokens, 3 * width)), rng.normal(size=(rows, tokens, width))
    return tuple(None if a is None else a.astype(np.float32).astype(float) for a in (qkv, prefix, mask, g))


def by_numpy(case, qkv, prefix, mask):
    """Computes attention of each query by `oracles.attend`."""
    heads = case["width"] // case["size"]
    q, k, v = (oracles.heads_of(x, heads) for x in np.split(qkv, 3, axis=-1))
    mask = np.zeros((case["tokens"],) * 2) if mask is None else mask
    if prefix is not None:
        more = [oracles.heads_of(np.repeat(x[None], case["rows"], 0), heads) for x in prefix]
        k, v = (np.concatenate(pair, axis=2) for pair in zip(more, (k, v), strict=True))
        mask = np.pad(mask, ((0, 0), (case["prefix"], 0)))
    return oracles.attend(q, k, v, mask).transpose(0, 2, 1, 3).reshape(*qkv.shape[:2], -1)


def by_kernel(case, dtype, qkv, prefix, mask, g):
    """Returns the output of the interpreted kernel and its gradients of qkv and prefix."""
    chosen = tpu_attention.Settings(case["width"] // case["size"], interpret=True)
    mask = None if mask is None else jnp.asarray(mask, jnp.float32)
    inputs = [None if a is None else jnp.asarray(a, dtype) for a in (qkv, prefix)]

    @jax.jit
    def run(qkv, prefix):
        out, pull = jax.vjp(lambda *a: tpu_attention.self_attention(*a, mask, chosen), qkv, prefix)
        return out, *pull(jnp.asarray(g, out.dtype))

    return run(*inputs)


def relative(found, expected) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-3)


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(case=cases)
@settings(max_examples=6, deadline=None)
def test_matches_numpy(dtype, case):
    """The inputs are rounded to the dtype first, so that only the computation's rounding shows."""
    qkv, prefix, mask, g = draw(case)
    out, *gradients = by_kernel(case, dtype, qkv, prefix, mask, g)
    rounded = [None if a is None else np.asarray(jnp.asarray(a, dtype), float) for a in (qkv, prefix)]
    assert out.dtype == dtype and relative(out, by_numpy(case, *rounded, mask)) < TOLERANCE[dtype]
    for gradient, array in zip(gradients, (qkv, prefix), strict=True):
        assert (gradient is None) == (array is None)
        assert gradient is None or (gradient.shape, gradient.dtype) == (array.shape, dtype)


@given(case=cases)
@settings(max_examples=5, deadline=None)
def test_gradients_match_finite_differences(case):
    """Compares directional derivatives, in float32, with differences of NumPy's attention in float64."""
    qkv, prefix, mask, g = draw(case)
    _, *gradients = by_kernel(case, "float32", qkv, prefix, mask, g)
    rng, h = np.random.default_rng(1), 1e-5
    at = [qkv, prefix]
    for i, gradient in enumerate(gradients):
        if gradient is None:
            continue
        direction = rng.normal(size=at[i].shape)

        def moved(step, i=i, direction=direction):
            return [a + step * direction if j == i else a for j, a in enumerate(at)]

        ahead, back = ((g * by_numpy(case, *moved(step), mask)).sum() for step in (h, -h))
        found, scale = (np.asarray(gradient) * direction).sum(), np.linalg.norm(gradient)
        np.testing.assert_allclose(found, (ahead - back) / (2 * h), rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(case=cases)
@settings(max_examples=6, deadline=None)
def test_gradients_match_the_reference(dtype, case):
    """Compares with `reference_attention` in float32 on the same rounded inputs."""
    qkv, prefix, mask, g = draw(case)
    _, *found = by_kernel(case, dtype, qkv, prefix, mask, g)
    rounded = [None if a is None else jnp.asarray(a, dtype).astype(jnp.float32) for a in (qkv, prefix)]
    mask = None if mask is None else jnp.asarray(mask, jnp.float32)
    heads = case["width"] // case["size"]

    def loss(qkv, prefix):
        tokens = None if prefix is None else tuple(prefix)
        return (attention.self_attention(qkv, heads, mask, tokens) * g).sum()

    expected = jax.grad(loss, (0, 1) if prefix is not None else (0,))(*rounded)
    for one, other in zip([a for a in found if a is not None], expected, strict=True):
        # With a single key, the gradients of q and k are zero.
        assert np.linalg.norm(np.asarray(one, float) - other) < TOLERANCE[dtype] * np.linalg.norm(
            np.asarray(expected[0])
        )


def test_only_sizes_that_fill_the_lanes_fit():
    def fits(tokens, width, heads):
        return tpu_attention.fits(jax.ShapeDtypeStruct((2, tokens, 3 * width), jnp.bfloat16), heads)

    with on_mesh(1):
        assert fits(193, 768, 12) and fits(77, 512, 8) and fits(257, 1024, 16)
        assert not fits(193, 192, 3)  # 64 lanes are left over
        assert not fits(193, 1280, 16)  # heads of 80 lanes overlap the slices
        assert not fits(577, 1024, 16)  # one row fills the fast memory
    with on_mesh(4):
        assert not fits(193, 768, 12)  # two rows on four devices


def on_mesh(data: int):
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((data, 1), ("data", "model")))


def test_is_chosen_for_tpus_alone(monkeypatch):
    """The kernel is called where the traced program's mesh is one of TPUs, whatever this machine is."""
    qkv, called = jax.ShapeDtypeStruct((2, 3, 3 * 128), jnp.bfloat16), []
    monkeypatch.setattr(
        tpu_attention, "self_attention", lambda qkv, *_: called.append(1) or qkv[..., : qkv.shape[-1] // 3]
    )
    for platform, expected in (("cpu", 0), ("gpu", 0), ("tpu", 1)):
        device = jax.sharding.AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
        mesh = jax.sharding.AbstractMesh((1, 1), ("data", "model"), abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            jax.eval_shape(lambda qkv: attention.self_attention(qkv, 2, None), qkv)
        assert len(called) == expected


ON_FOUR_DEVICES = """
import functools, json
import jax, jax.numpy as jnp, numpy as np
from tpr_jax.distributed.sharding import make_mesh, row_sharding
from tpr_jax.models import tpu_attention as kernels
from tpr_jax.train.step import on_mesh

rng = np.random.default_rng(0)
settings, found = kernels.Settings(2, interpret=True), {}
for rows in (8, 6):  # over all devices; over the axis data alone
    qkv, prefix, g = (rng.normal(size=s).astype("f") for s in ((rows, 5, 384), (2, 3, 128), (rows, 5, 128)))

    def run(qkv, prefix, g):
        out, pull = jax.vjp(lambda *a: kernels.self_attention(*a, None, settings), qkv, prefix)
        return out, *pull(g)

    mesh = make_mesh(2, 2)
    arrays = [jax.device_put(a, row_sharding(mesh, rows)) for a in (qkv, g)]
    split = jax.jit(on_mesh(run, mesh))(arrays[0], prefix, arrays[1])
    # Each device keeps its rows.
    sizes = [len(shard.data) for shard in split[0].addressable_shards]
    errors = [float(abs(np.asarray(a) - b).max()) for a, b in zip(split, jax.jit(run)(qkv, prefix, g))]
    found[rows] = (sizes, errors)
print(json.dumps(found))
"""


def test_a_mesh_computes_each_row_once():
    ran = subprocess.run(
        [sys.executable, "-c", ON_FOUR_DEVICES],
        env={**forced_devices(4, quick=True), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["8"][0] == [2] * 4 and found["6"][0] == [3] * 4
    assert max(found["8"][1] + found["6"][1]) < 1e-5
