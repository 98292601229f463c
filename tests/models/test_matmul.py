"""The products against NumPy, and their custom derivatives against `jax.grad` of the plain product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpr_jax.models import matmul
from tpr_jax.models.attention import reference_attention
from tpr_jax.models.matmul import dense, matmul_columns, matmul_f32, matmul_rows

TYPES = {"float32": (jnp.float32, 1e-6), "bfloat16": (jnp.bfloat16, 2e-2)}
dtypes = pytest.mark.parametrize(("dtype", "tolerance"), TYPES.values(), ids=TYPES)


def relative(found, expected) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def arrays(*shapes, dtype):
    rng = np.random.default_rng(len(shapes))
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def plain(a, b):
    """Computes the product of the rounded operands in float32, without a custom derivative."""
    return jnp.einsum("...mk,...kn->...mn", a.astype(jnp.float32), b.astype(jnp.float32))


@dtypes
def test_matmul_matches_numpy(dtype, tolerance):
    a, b = arrays((2, 3, 4, 5), (2, 3, 5, 6), dtype=dtype)
    found = matmul_f32(a, b)
    assert found.dtype == jnp.float32 and found.shape == (2, 3, 4, 6)  # the result is float32, not rounded
    expected = np.matmul(np.asarray(a, np.float64), np.asarray(b, np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@dtypes
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_products_with_a_transposed_operand_match_numpy(monkeypatch, dtype, tolerance, native, batch):
    """With and without native products of bfloat16, compiled, and where the result is transposed."""
    monkeypatch.setattr(matmul, "has_bfloat16_products", lambda: native)
    a, b = arrays((*batch, 40, 24), (*batch, 40, 16), dtype=dtype)
    wide = [np.asarray(x, np.float64) for x in (a, b)]
    expected = np.einsum("...km,...kn->...mn", *wide)
    for function, want in (
        (matmul_rows, expected),
        (lambda a, b: matmul_rows(a, b).mT, expected.swapaxes(-1, -2)),
        (lambda a, b: matmul_columns(a.mT, b.mT), expected),
    ):
        found = jax.jit(function)(a, b)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-4)


def test_a_product_over_rows_keeps_bfloat16_where_the_cpu_multiplies_it(monkeypatch):
    """Elsewhere, and in float32, it has no additional dimension."""
    a, b = arrays((40, 24), (40, 16), dtype=jnp.bfloat16)
    for native, dtype, contracted in (
        (True, jnp.bfloat16, "[0, 1] x [0, 1]"),
        (False, jnp.bfloat16, "[0] x [0]"),
        (True, jnp.float32, "[0] x [0]"),
    ):
        monkeypatch.setattr(matmul, "has_bfloat16_products", lambda native=native: native)
        program = jax.jit(lambda a, b: matmul_rows(a, b)).lower(a.astype(dtype), b.astype(dtype))
        assert f"contracting_dims = {contracted}" in program.as_text()


@dtypes
def test_dense_matches_numpy_with_any_leading_axes(dtype, tolerance):
    x, kernel = arrays((2, 3, 5), (5, 4), dtype=dtype)
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    for rows in (x, x[0], x[0, 0]):
        found = dense(rows, kernel)
        assert found.dtype == dtype and found.shape == (*rows.shape[:-1], 4)
    np.testing.assert_allclose(
        np.asarray(dense(x, kernel), np.float64),
        expected,
        rtol=1e-5 if dtype == jnp.float32 else 2.0**-8,
        atol=1e-6,
    )


@dtypes
def test_gradients_of_dense(dtype, tolerance):
    """The gradient of a float32 kernel is float32, whatever the computation's dtype."""
    x, g = arrays((2, 3, 5), (2, 3, 4), dtype=dtype)
    (kernel,) = arrays((5, 4), dtype=jnp.float32)
    found = jax.grad(lambda *xk: jnp.sum((dense(*xk) * g).astype(jnp.float32)), argnums=(0, 1))(x, kernel)
    expected = jax.grad(lambda *xk: jnp.sum(plain(*xk) * g.astype(jnp.float32)), argnums=(0, 1))(
        x.astype(jnp.float32), kernel
    )
    assert (found[0].dtype, found[1].dtype) == (dtype, jnp.float32)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative(ours, theirs) < tolerance


@pytest.mark.parametrize(("mesh", "expected"), [("cpu", 1.0), ("tpu", 0.0), ("gpu", 0.0)])
def test_a_cpu_rounds_after_the_bias(monkeypatch, mesh, expected):
    """The product 257 is no bfloat16 number: accelerators round it to 256, a CPU rounds the sum 1."""
    monkeypatch.setattr(matmul, "mesh_platform", lambda: mesh)
    x, kernel = jnp.asarray([[256.0, 1.0]], jnp.bfloat16), jnp.ones((2, 1), jnp.bfloat16)
    for dtype in (jnp.float32, jnp.bfloat16):
        found = dense(x, kernel, jnp.asarray([-256], dtype))
        assert found.dtype == jnp.bfloat16 and found.tolist() == [[expected]]


@dtypes
@pytest.mark.parametrize("mesh", ["cpu", "tpu"])
def test_dense_with_a_bias_matches_numpy(monkeypatch, dtype, tolerance, mesh):
    """Forward, and the gradient of a float32 bias, which is the sum over all rows."""
    monkeypatch.setattr(matmul, "mesh_platform", lambda: mesh)
    x, kernel, g = arrays((2, 3, 5), (5, 4), (2, 3, 4), dtype=dtype)
    (bias,) = arrays((4,), dtype=jnp.float32)
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
    assert relative(dense(x, kernel, bias), expected) < tolerance
    gradients = jax.grad(lambda *a: jnp.sum((dense(*a) * g).astype(jnp.float32)), argnums=(0, 1, 2))
    found = gradients(x, kernel, bias)
    without = jax.grad(lambda *a: jnp.sum((dense(*a) * g).astype(jnp.float32)), argnums=(0, 1))(x, kernel)
    assert found[2].dtype == jnp.float32
    np.testing.assert_allclose(found[2], np.asarray(g, np.float64).sum((0, 1)), rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(found, without, strict=False):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("mesh", ["cpu", "gpu"])
def test_dense_returns_an_unrounded_sum_where_asked(monkeypatch, mesh):
    """The sum 257 is no bfloat16 number; the products of the backward pass stay bfloat16."""
    monkeypatch.setattr(matmul, "mesh_platform", lambda: mesh)
    x, kernel = jnp.asarray([[256.0, 1.0]], jnp.bfloat16), jnp.ones((2, 1), jnp.bfloat16)
    found = dense(x, kernel, dtype=jnp.float32)
    assert found.dtype == jnp.float32 and found.tolist() == [[257]]
    assert dense(x, kernel).tolist() == [[256]]
    text = jax.make_jaxpr(jax.grad(lambda *a: dense(*a, dtype=jnp.float32).sum(), argnums=(0, 1)))(x, kernel)
    products = [e for e in walk(text.jaxpr) if e.primitive.name == "dot_general"]
    assert len(products) == 3
    assert {v.aval.dtype for e in products for v in e.invars} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(("mesh", "expected"), [("cpu", jnp.float32), ("tpu", jnp.bfloat16)])
def test_a_cpu_adds_up_products_in_float32(monkeypatch, mesh, expected):
    monkeypatch.setattr(matmul, "mesh_platform", lambda: mesh)
    assert matmul.sum_dtype(jnp.bfloat16) == expected and matmul.sum_dtype(jnp.float32) == jnp.float32


@pytest.mark.parametrize(
    ("platforms", "expected"),
    [(("cpu",), jnp.float32), (("cuda",), jnp.bfloat16), (("cpu", "tpu"), jnp.bfloat16)],
)
def test_programs_are_traced_for_the_platforms_of_an_export(monkeypatch, platforms, expected):
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        with matmul.tracing_for(platforms):
            assert matmul.sum_dtype(jnp.bfloat16) == expected
        assert matmul.sum_dtype(jnp.bfloat16) == (jnp.float32 if backend == "cpu" else jnp.bfloat16)


def test_gradient_of_a_frozen_bfloat16_kernel_stays_bfloat16():
    x, kernel = arrays((3, 5), (5, 4), dtype=jnp.bfloat16)
    gradient = jax.grad(lambda k: dense(x, k).astype(jnp.float32).sum())(kernel)
    assert gradient.dtype == jnp.bfloat16


def attention(a, b):
    """a holds the queries, b keys and values, so that gradients pass through all products."""
    return reference_attention(a[None, None], b[None, None], b[None, None], None)


# Functions, the shapes of their operands, and their numbers of products, forward and backward.
MADE_OF_PRODUCTS = [(dense, (4, 5), (5, 6), 3), (attention, (4, 6), (5, 6), 6)]
made_of_products = pytest.mark.parametrize(("function", "left", "right", "count"), MADE_OF_PRODUCTS)


@made_of_products
def test_bfloat16_products_accumulate_in_float32(function, left, right, count):
    """Holds forward and backward, because otherwise the CPU would not use its products of bfloat16."""
    a, b = arrays(left, right, dtype=jnp.bfloat16)

    def loss(a, b):
        return jnp.square(function(a, b).astype(jnp.float32)).sum()

    text = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(a, b)
    found = [e for e in walk(text.jaxpr) if e.primitive.name == "dot_general"]
    assert len(found) == count
    for equation in found:
        assert [v.aval.dtype for v in equation.invars] == [jnp.bfloat16] * 2
        assert equation.outvars[0].aval.dtype == jnp.float32


@made_of_products
@pytest.mark.parametrize(
    ("dtype", "precision"), [("float32", (jax.lax.Precision.HIGHEST,) * 2), ("bfloat16", None)]
)
def test_float32_is_float32_on_every_platform(function, left, right, count, dtype, precision):
    """All products of float32 operands request the highest precision; bfloat16 operands need none."""
    a, b = arrays(left, right, dtype=dtype)
    gradient = jax.grad(lambda a, b: jnp.square(function(a, b).astype(jnp.float32)).sum(), argnums=(0, 1))
    found = [e for e in walk(jax.make_jaxpr(gradient)(a, b).jaxpr) if e.primitive.name == "dot_general"]
    assert [e.params["precision"] for e in found] == [precision] * count


def walk(jaxpr):
    """Yields all equations of a jaxpr and of its inner jaxprs."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                yield from walk(inner)
