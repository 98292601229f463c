"""Matrix products whose operands keep their dtype, forward and backward.

A CPU with instructions for bfloat16 products uses them only if the result is requested in float32, and in
the backward pass only if the cotangent is bfloat16 too, which `jax.grad` does not arrange by itself; hence
the custom derivative. On TPU and GPU the same form accumulates in float32, as is desired there. Float32
operands are multiplied in float32 everywhere.

A transposed operand is not written as a transposition followed by a product, but as a product over other
dimensions: of the former XLA's CPU compiler (jaxlib 0.10 to 0.12) converts bfloat16 operands to float32.
"""

import contextlib
import functools
from collections.abc import Generator, Sequence
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from tpr_jax.utils.cpu import has_bfloat16_products

MATMUL = "matmul"

_target: ContextVar[str] = ContextVar("target", default="")  # see `tracing_for`


def save_product(x: Array) -> Array:
    """Names the result of a layer's products, which remat "dots" saves for the backward pass.

    This is what follows a product's bias and low-rank update, as one array. If each product of a sum had the
    name, each would be saved. Policies of `jax.checkpoint` do not look into custom derivatives, so that they
    need the name.
    """
    return checkpoint_name(x, MATMUL)


def mesh_platform() -> str | None:
    """Returns the platform of the mesh that the program is traced for (`train.step.on_mesh`), or None.

    This machine may have no such devices: `tpr_jax.aot` compiles for TPUs and GPUs on a CPU.
    """
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return getattr(device, "platform", None)


def is_for_tpu() -> bool:
    """Returns whether the program that is being traced is for a mesh of TPUs."""
    return mesh_platform() == "tpu"


@contextlib.contextmanager
def tracing_for(platforms: Sequence[str]) -> Generator[None]:
    """Traces programs for these platforms, not for this machine's: as for CPUs if all of them are."""
    token = _target.set(next((name for name in platforms if name != "cpu"), "cpu"))
    try:
        yield
    finally:
        _target.reset(token)


def _is_for_cpu() -> bool:
    return (mesh_platform() or _target.get() or jax.default_backend()) == "cpu"


def has_native_products(dtype: jnp.dtype) -> bool:
    """Returns whether this machine's CPU multiplies this type itself, at a higher rate than float32."""
    return _is_for_cpu() and dtype == jnp.bfloat16 and has_bfloat16_products()


def all_gather_weight(weight: Array) -> Array:
    """Gathers a weight that a mesh may hold sharded (`distributed/sharding.py`).

    The backward pass gathers it again, so that the full weight is held only while it is used.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return weight
    return jax.lax.with_sharding_constraint(weight, PartitionSpec())


def matmul_f32(a: Float[Array, "*rows k"], b: Float[Array, "*blocks k n"]) -> Float[Array, "*rows n"]:
    """Computes `a @ b` in float32, with JAX's own derivative.

    Args:
      a: the left operand, [*rows, k].
      b: the right operand, [k, n], or one for each block of rows.
    """
    return jnp.matmul(a, b, precision=_precision(a.dtype), preferred_element_type=jnp.float32)


def matmul_columns(
    a: Float[Array, "*batch m k"], b: Float[Array, "*batch n k"]
) -> Float[Array, "*batch m n"]:
    """Computes `a @ b.mT` in float32: the scores of queries and keys."""
    return _contract(a, b, (a.ndim - 1,), tuple(range(a.ndim - 2)))


def matmul_rows(a: Float[Array, "*batch k m"], b: Float[Array, "*batch k n"]) -> Float[Array, "*batch m n"]:
    """Computes `a.mT @ b` in float32: the gradient of a kernel, or of keys and values."""
    batch = tuple(range(a.ndim - 2))
    if not has_native_products(a.dtype):
        return _contract(a, b, (a.ndim - 2,), batch)
    # Only a product over several dimensions keeps its bfloat16 operands: one of length 1 is added. A
    # transposition of the result must not be moved into it, which would be an error when it runs.
    rows = (a.ndim - 2, a.ndim - 1)
    a, b = (jnp.expand_dims(x, x.ndim - 1) for x in (a, b))
    return jax.lax.optimization_barrier(_contract(a, b, rows, batch))


def _contract(a: Array, b: Array, dimensions: tuple[int, ...], batch: tuple[int, ...]) -> Array:
    numbers = ((dimensions, dimensions), (batch, batch))
    return jax.lax.dot_general(
        a, b, numbers, precision=_precision(a.dtype), preferred_element_type=jnp.float32
    )


def _precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    # By default GPUs round float32 operands to 10 bits (TF32) and TPUs to 7 (bfloat16).
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def sum_dtype(dtype: DTypeLike) -> DTypeLike:
    """Returns the type to add up products in, before the sum is rounded to `dtype`.

    A CPU adds in float32: each rounding to bfloat16 takes it as long as several additions. Elsewhere the
    product itself writes `dtype`, at half the memory traffic.
    """
    return jnp.float32 if _is_for_cpu() else dtype


def dense(
    x: Float[Array, "*rows k"],
    kernel: Float[Array, "*blocks k n"],
    bias: Float[Array, " n"] | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, "*rows n"]:
    """Computes `x @ kernel + bias`, with operands in the dtype of x.

    Args:
      x: the input, [*rows, k].
      kernel: one kernel [k, n] for all rows, or one for each block, [*blocks, k, n] for x of [*blocks, m, k].
        A float32 kernel receives a float32 gradient, whatever the dtype of x.
      bias: [n] with one kernel, or None.
      dtype: of the result; by default that of x.
    """
    return _dense(x, kernel, bias, dtype or x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _dense(x, kernel, bias, dtype):
    product = matmul_f32(x, all_gather_weight(kernel.astype(x.dtype)))
    product = product.astype(jnp.promote_types(sum_dtype(x.dtype), dtype))
    return (product if bias is None else product + bias.astype(product.dtype)).astype(dtype)


def _dense_forward(x, kernel, bias, dtype):
    return _dense(x, kernel, bias, dtype), (x, kernel, bias)


def _dense_backward(dtype, residuals, g):
    x, kernel, bias = residuals
    g = g.astype(x.dtype)
    grad_x = matmul_f32(g, all_gather_weight(kernel.astype(x.dtype)).mT).astype(x.dtype)
    if kernel.ndim == 2:
        x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    grad_bias = None if bias is None else g.astype(jnp.float32).sum(0).astype(bias.dtype)
    return grad_x, matmul_rows(x, g).astype(kernel.dtype), grad_bias


_dense.defvjp(_dense_forward, _dense_backward)
