"""Scaled dot-product attention: written out, with a backward pass that keeps little, or as cuDNN's kernel.

Both are the same function of the same arrays. On NVIDIA's GPUs from Ampere on, cuDNN's (FlashAttention, Dao
et al., NeurIPS 2022) takes bfloat16 without a mask; everything else, float32 too, is written out. With it in
both towers a step of DM-Adapter (ViT-B/16, batch 64) took 33 ms on an H100, and 40 ms without.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from tpr_jax.models.matmul import MATMUL, matmul_f32

ROWS = 8  # cuDNN takes numbers of queries and of keys that are multiples of this


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
    # A mask is the text tower's, whose attention takes little; of one query, in a last block, all does.
    if mask is not None or q.dtype != jnp.bfloat16 or q.shape[2] <= ROWS or not kernel_works():
        return reference_attention(q, k, v, mask)
    # By where it will run, not where it is traced: a GPU's machine can also compile for its CPU.
    return jax.lax.platform_dependent(
        q, k, v, cuda=fused, default=functools.partial(reference_attention, mask=None)
    )


def fused(q, k, v, implementation: str = "cudnn") -> Float[Array, "b h l c"]:
    """As `attend` without a mask, by `jax.nn.dot_product_attention`, with queries and keys filled up."""
    (b, _, l, _), m = q.shape, k.shape[2]
    # [b, l, h, c], as cuDNN takes them; it leaves out what lies behind the lengths.
    q, k, v = (_filled_up(jnp.swapaxes(x, 1, 2)) for x in (q, k, v))
    seen = {
        "query_seq_lengths": jnp.full((b,), l, jnp.int32),
        "key_value_seq_lengths": jnp.full((b,), m, jnp.int32),
    }
    out = jax.nn.dot_product_attention(q, k, v, implementation=implementation, **seen)
    return jnp.swapaxes(out[:, :l], 1, 2)


def _filled_up(x: Float[Array, "b l h c"]) -> Float[Array, "b r h c"]:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % ROWS), (0, 0), (0, 0)))


@functools.cache
def kernel_works(implementation: str = "cudnn") -> bool:
    """Whether the kernel runs on the GPUs here, and gives what is written out, slopes too: asked once, of
    small arrays, for it depends on the GPU and on the versions of its libraries."""
    if jax.default_backend() != "gpu":
        return False
    with jax.ensure_compile_time_eval():  # a model is being traced
        keys = jax.random.split(jax.random.key(0), 3)
        sizes = (ROWS + 1, 2 * ROWS + 5, 2 * ROWS + 5)  # of queries, keys and values, none a multiple
        arrays = [
            jax.random.normal(key, (2, 3, n, 64), jnp.bfloat16) for key, n in zip(keys, sizes, strict=True)
        ]

        def slopes(function):
            weighed = lambda *a: (function(*a).astype(jnp.float32) ** 2).sum()  # noqa: E731
            return jax.jit(jax.grad(weighed, (0, 1, 2)))(*arrays)

        try:
            found = slopes(functools.partial(fused, implementation=implementation))
        except Exception:  # of many kinds: an older GPU, no cuDNN, a size it does not take
            return False
        expected = slopes(functools.partial(reference_attention, mask=None))
        return all(
            bool(jnp.linalg.norm((a - b).astype(jnp.float32)) < 0.03 * jnp.linalg.norm(b.astype(jnp.float32)))
            for a, b in zip(found, expected, strict=True)
        )


@jax.custom_vjp
def reference_attention(q, k, v, mask) -> Float[Array, "b h l c"]:
    """As `attend`, by products and a softmax, of which the backward pass gets the result, in q's type."""
    return _written_out(q, k, v, mask)[0]


def attention_weights(q, k, mask) -> Float[Array, "b h l m"]:
    """How each query's attention is shared out among the keys, float32; arguments as of `attend`."""
    scores = matmul_f32(q * q.shape[-1] ** -0.5, jnp.swapaxes(k, -1, -2)).astype(q.dtype).astype(jnp.float32)
    return jax.nn.softmax(scores if mask is None else scores + mask, axis=-1)


def _written_out(q, k, v, mask):
    weights = attention_weights(q, k, mask).astype(q.dtype)
    return matmul_f32(weights, v).astype(q.dtype), weights


def _forward(q, k, v, mask):
    out, weights = (checkpoint_name(x, MATMUL) for x in _written_out(q, k, v, mask))
    return out, (q, k, v, weights, out)


def _backward(saved, g):
    """The softmax's slope needs the sum over keys of weights times their slopes, which is that of out times g
    over the features (Dao et al., NeurIPS 2022, appendix B.2): known before the slopes are."""
    q, k, v, weights, out = saved
    g = g.astype(q.dtype)
    total = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    slopes = matmul_f32(g, jnp.swapaxes(v, -1, -2)) - total
    slopes = (weights.astype(jnp.float32) * slopes).astype(q.dtype)
    scale = q.shape[-1] ** -0.5
    grad_q = scale * matmul_f32(slopes, k)
    grad_k = scale * matmul_f32(jnp.swapaxes(slopes, -1, -2), q)
    grad_v = matmul_f32(jnp.swapaxes(weights, -1, -2), g)
    return *(grad.astype(q.dtype) for grad in (grad_q, grad_k, grad_v)), None


reference_attention.defvjp(_forward, _backward)
