"""Scaled dot-product attention: written out, with a backward pass that keeps little, or as cuDNN's kernel.

Both are the same function of the same arrays. On NVIDIA's GPUs from Ampere on, cuDNN's (FlashAttention, Dao
et al., NeurIPS 2022) takes bfloat16; everything else, float32 too, is written out. With it a step of
DM-Adapter (ViT-B/16, batch 64) took 33 ms on an H100, and 40 ms without.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from tpr_jax.models.products import PRODUCT, product

ROWS = 8  # cuDNN takes numbers of queries and of keys that are multiples of this
FEW = 8  # queries, and fewer, are not worth its kernel: a tower's last block has one


def split_heads(x: Float[Array, "b l d"], heads: int) -> Float[Array, "b h l c"]:
    """A view of the features as those of `heads` heads."""
    b, l, d = x.shape
    return jnp.swapaxes(x.reshape(b, l, heads, d // heads), 1, 2)


def join_heads(x: Float[Array, "b h l c"]) -> Float[Array, "b l d"]:
    """The inverse of `split_heads`."""
    b, h, l, c = x.shape
    return jnp.swapaxes(x, 1, 2).reshape(b, l, h * c)


def attend(q, k, v, mask) -> Float[Array, "b h l c"]:
    """Scaled dot-product attention, softmax in float32.

    q: [b, h, l, c]; k, v: [b, h, m, c]; the mask, [l, m], [b, 1, l, m] or None, adds to the scores.
    """
    if q.dtype != jnp.bfloat16 or q.shape[2] <= FEW or q.shape[3] % 8 or not _has_kernel():
        return written_out(q, k, v, mask)
    # By where it will run, not where it is traced: a GPU's machine can also compile for its CPU.
    return jax.lax.platform_dependent(q, k, v, mask, cuda=fused, default=written_out)


@functools.cache
def _has_kernel() -> bool:
    """Whether cuDNN's kernel runs on the GPUs here."""
    if jax.default_backend() != "gpu":
        return False
    capability = getattr(jax.local_devices()[0], "compute_capability", "0")  # "9.0"; AMD's is a name
    return capability.split(".")[0].isdigit() and int(capability.split(".")[0]) >= 8


def fused(q, k, v, mask, implementation: str = "cudnn") -> Float[Array, "b h l c"]:
    """As `attend`, by `jax.nn.dot_product_attention`, with queries and keys filled up to what cuDNN takes."""
    (b, _, l, _), m = q.shape, k.shape[2]
    q, k, v = (_filled(jnp.swapaxes(x, 1, 2), 1) for x in (q, k, v))
    bias = mask
    if mask is not None:  # what is filled up sees, and is seen by, nobody who counts
        bias = jnp.maximum(mask, jnp.finfo(q.dtype).min / 2).astype(q.dtype)
        bias = _filled(_filled(bias.reshape(-1, 1, *mask.shape[-2:]), 2), 3)
    seen = {
        "query_seq_lengths": jnp.full((b,), l, jnp.int32),
        "key_value_seq_lengths": jnp.full((b,), m, jnp.int32),
    }
    out = jax.nn.dot_product_attention(q, k, v, bias=bias, implementation=implementation, **seen)
    return jnp.swapaxes(out[:, :l], 1, 2)


def _filled(x: Array, axis: int) -> Array:
    """With zeros behind, so that the axis is a multiple of `ROWS`."""
    return jnp.pad(x, [(0, -x.shape[i] % ROWS if i == axis else 0) for i in range(x.ndim)])


@jax.custom_vjp
def written_out(q, k, v, mask) -> Float[Array, "b h l c"]:
    """As `attend`, by products and a softmax, of which the backward pass gets the result, in q's type."""
    return _written_out(q, k, v, mask)[0]


def _written_out(q, k, v, mask):
    scores = product(q * q.shape[-1] ** -0.5, jnp.swapaxes(k, -1, -2)).astype(q.dtype).astype(jnp.float32)
    if mask is not None:
        scores = scores + mask
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    return product(weights, v).astype(q.dtype), weights


def _forward(q, k, v, mask):
    out, weights = (checkpoint_name(x, PRODUCT) for x in _written_out(q, k, v, mask))
    return out, (q, k, v, weights, out)


def _backward(saved, g):
    """The softmax's slope needs the sum over keys of weights times their slopes, which is that of out times g
    over the features (Dao et al., NeurIPS 2022, appendix B.2): known before the slopes are."""
    q, k, v, weights, out = saved
    g = g.astype(q.dtype)
    total = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    slopes = product(g, jnp.swapaxes(v, -1, -2)) - total
    slopes = (weights.astype(jnp.float32) * slopes).astype(q.dtype)
    scale = q.shape[-1] ** -0.5
    grad_q = scale * product(slopes, k)
    grad_k = scale * product(jnp.swapaxes(slopes, -1, -2), q)
    grad_v = product(jnp.swapaxes(weights, -1, -2), g)
    return *(grad.astype(q.dtype) for grad in (grad_q, grad_k, grad_v)), None


written_out.defvjp(_forward, _backward)
