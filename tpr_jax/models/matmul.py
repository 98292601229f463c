"""Matrix products that run in the computation's type, forwards and backwards.

With bfloat16 operands the CPU reaches its matrix unit only when the result is asked for in float32, and in
the backward pass only when the cotangent is bfloat16 too, which `jax.grad` does not arrange by itself; hence
the custom derivative. On TPU and GPU the same form accumulates in float32, as is wanted there. Float32
operands are multiplied in float32 everywhere.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

# What `jax.checkpoint` may keep; it does not look into derivatives of our own for their products.
MATMUL = "product"


def all_gather_weight(weight: Array) -> Array:
    """Gathers the whole weight, which a mesh may hold split over devices (`distributed/sharding.py`).

    Called anew in the backward pass, so that the whole is held only while it is used.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return weight
    return jax.lax.with_sharding_constraint(weight, PartitionSpec())


def matmul_f32(a: Float[Array, "*rows k"], b: Float[Array, "*blocks k n"]) -> Float[Array, "*rows n"]:
    """`a @ b` in float32; its derivative is JAX's own."""
    # Left to themselves, GPUs round float32 operands to 10 bits (TF32) and TPUs to 7 (bfloat16).
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.matmul(a, b, precision=precision, preferred_element_type=jnp.float32)


def dense(x: Float[Array, "*batch k"], kernel: Float[Array, "*blocks k n"]) -> Float[Array, "*batch n"]:
    """`x @ kernel` in x's type; the kernel may be held in float32 and then gets a float32 gradient.

    One kernel for all rows, or with x [*blocks, m, k] one for each block.
    """
    return checkpoint_name(_dense(x, kernel), MATMUL)


@jax.custom_vjp
def _dense(x, kernel):
    return matmul_f32(x, all_gather_weight(kernel.astype(x.dtype))).astype(x.dtype)


def _dense_forward(x, kernel):
    return _dense(x, kernel), (x, kernel)


def _dense_backward(saved, g):
    x, kernel = saved
    g = g.astype(x.dtype)
    grad_x = matmul_f32(g, all_gather_weight(kernel.astype(x.dtype)).mT).astype(x.dtype)
    if kernel.ndim == 2:
        x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return grad_x, matmul_f32(x.mT, g).astype(kernel.dtype)


_dense.defvjp(_dense_forward, _dense_backward)
