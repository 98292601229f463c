"""Scaled dot-product attention: a memory-efficient reference in JAX, or cuDNN's fused kernel.

Both compute the same function. On NVIDIA GPUs from Ampere on, cuDNN (FlashAttention, Dao et al., NeurIPS
2022) handles bfloat16 without a mask; everything else, float32 included, uses the reference. With cuDNN a
step of DM-Adapter (ViT-B/16, batch 64) took 33 ms on an H100, and 40 ms without.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.matmul import (
    is_for_tpu,
    matmul_columns,
    matmul_f32,
    matmul_rows,
    mesh_platform,
    save_product,
)
from tpr_jax.models.petl.prefix import mask_with_prefix, with_prefix

ALIGNMENT = 8  # cuDNN needs numbers of queries and of keys that are multiples of this


def split_heads(x: Float[Array, "b l d"], heads: int) -> Float[Array, "b h l c"]:
    """Splits the features into `heads` heads."""
    b, l, d = x.shape
    return jnp.swapaxes(x.reshape(b, l, heads, d // heads), 1, 2)


def join_heads(x: Float[Array, "b h l c"]) -> Float[Array, "b l d"]:
    """Computes the inverse of `split_heads`."""
    b, h, l, c = x.shape
    return jnp.swapaxes(x, 1, 2).reshape(b, l, h * c)


def self_attention(
    qkv: Float[Array, "b l n"],
    heads: int,
    mask: Float[Array, "l l"] | None,
    prefix: tuple[Float[Array, "m d"], Float[Array, "m d"]] | None = None,
) -> Float[Array, "b l d"]:
    """Computes the attention of all tokens to each other, by one kernel where the program is for TPUs.

    Args:
      qkv: the queries, keys and values of all heads, side by side.
      heads: the number of heads.
      mask: added to the scores, or None.
      prefix: keys and values that all tokens attend to as well.
    """
    if is_for_tpu():
        from tpr_jax.models import tpu_attention  # imports Pallas, which takes a while

        if tpu_attention.fits(qkv, heads):
            tokens = None if prefix is None else jnp.stack(prefix)
            out = tpu_attention.self_attention(qkv, tokens, mask, tpu_attention.Settings(heads))
            return save_product(out)
    q, k, v = (split_heads(x, heads) for x in jnp.split(qkv, 3, axis=-1))
    if prefix is not None:
        k, v = (with_prefix(tokens, x) for tokens, x in zip(prefix, (k, v), strict=True))
        mask = mask_with_prefix(mask, len(prefix[0]))
    return join_heads(attend(q, k, v, mask))


def attend(
    q: Float[Array, "b h l c"],
    k: Float[Array, "b h m c"],
    v: Float[Array, "b h m c"],
    mask: Float[Array, "*batch l m"] | None,
) -> Float[Array, "b h l c"]:
    """Computes scaled dot-product attention with the softmax in float32.

    Args:
      q: the queries.
      k: the keys.
      v: the values.
      mask: added to the scores, [l, m] or [b, 1, l, m]; None for no mask.
    """
    # Masks are the text tower's, where attention is cheap, as it is with the last block's single query.
    fits = mask is None and q.dtype == jnp.bfloat16 and q.shape[2] > ALIGNMENT
    if not fits or not _uses_fused_attention():
        return reference_attention(q, k, v, mask)
    # Chosen by the platform that it runs on, not the one that it is traced on: a GPU's host also compiles for
    # its CPU.
    return jax.lax.platform_dependent(
        q, k, v, cuda=fused_attention, default=functools.partial(reference_attention, mask=None)
    )


def _uses_fused_attention() -> bool:
    if jax.default_backend() == "gpu":
        return fused_attention_works()
    return mesh_platform() == "gpu" and fused_attention_compiles()


def fused_attention(
    q: Float[Array, "b h l c"],
    k: Float[Array, "b h m c"],
    v: Float[Array, "b h m c"],
    implementation: Literal["xla", "cudnn"] = "cudnn",
) -> Float[Array, "b h l c"]:
    """Computes `attend` without a mask by `jax.nn.dot_product_attention`, on padded queries and keys."""
    (b, _, l, _), m = q.shape, k.shape[2]
    # cuDNN takes [b, l, h, c] and ignores what lies beyond the sequence lengths.
    q, k, v = (_pad(jnp.swapaxes(x, 1, 2)) for x in (q, k, v))
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        implementation=implementation,
        query_seq_lengths=jnp.full((b,), l, jnp.int32),
        key_value_seq_lengths=jnp.full((b,), m, jnp.int32),
    )
    return jnp.swapaxes(out[:, :l], 1, 2)


def _pad(x: Float[Array, "b l h c"]) -> Float[Array, "b r h c"]:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % ALIGNMENT), (0, 0), (0, 0)))


@functools.cache
def fused_attention_compiles() -> bool:
    """Returns whether this machine, which has no GPU, has the library to compile the fused kernel for one."""
    x = jax.ShapeDtypeStruct((1, 1, ALIGNMENT, 64), jnp.bfloat16)
    try:
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):  # the caller has a mesh
            jax.jit(fused_attention).trace(x, x, x).lower(lowering_platforms=("cuda",))
    except RuntimeError:  # it does not
        return False
    return True


@functools.cache
def fused_attention_works(implementation: Literal["xla", "cudnn"] = "cudnn") -> bool:
    """Returns whether the fused kernel runs on this machine's GPUs with gradients equal to the reference's.

    Tries it once on small arrays, because support depends on the GPU and on the versions of its libraries.
    """
    if jax.default_backend() != "gpu":
        return False
    with jax.ensure_compile_time_eval():  # the caller is being traced
        keys = jax.random.split(jax.random.key(0), 3)
        lengths = (ALIGNMENT + 1, 2 * ALIGNMENT + 5, 2 * ALIGNMENT + 5)  # of q, k, v; none of them aligned
        arrays = [
            jax.random.normal(key, (2, 3, n, 64), jnp.bfloat16) for key, n in zip(keys, lengths, strict=True)
        ]

        def gradients(function):
            loss = lambda *a: (function(*a).astype(jnp.float32) ** 2).sum()  # noqa: E731 (a loss of one line)
            return jax.jit(jax.grad(loss, (0, 1, 2)))(*arrays)

        try:
            actual = gradients(functools.partial(fused_attention, implementation=implementation))
        except Exception:  # may be of many types: an older GPU, no cuDNN, an unsupported size
            return False
        expected = gradients(functools.partial(reference_attention, mask=None))
        return all(
            bool(jnp.linalg.norm((a - b).astype(jnp.float32)) < 0.03 * jnp.linalg.norm(b.astype(jnp.float32)))
            for a, b in zip(actual, expected, strict=True)
        )


@jax.custom_vjp
def reference_attention(
    q: Float[Array, "b h l c"],
    k: Float[Array, "b h m c"],
    v: Float[Array, "b h m c"],
    mask: Float[Array, "*batch l m"] | None,
) -> Float[Array, "b h l c"]:
    """Computes `attend` by two products and a softmax; saves the attention weights in the dtype of q."""
    return _attention_and_weights(q, k, v, mask)[0]


def attention_weights(
    q: Float[Array, "b h l c"], k: Float[Array, "b h m c"], mask: Float[Array, "*batch l m"] | None
) -> Float[Array, "b h l m"]:
    """Computes the attention weights of each query over the keys, in float32; arguments as of `attend`."""
    scores = matmul_columns(q * q.shape[-1] ** -0.5, k).astype(q.dtype).astype(jnp.float32)
    return jax.nn.softmax(scores if mask is None else scores + mask, axis=-1)


def _attention_and_weights(q, k, v, mask):
    weights = attention_weights(q, k, mask).astype(q.dtype)
    return matmul_f32(weights, v).astype(q.dtype), weights


def _forward(q, k, v, mask):
    out, weights = (save_product(x) for x in _attention_and_weights(q, k, v, mask))
    return out, (q, k, v, weights, out)


def _backward(residuals, g):
    """Computes the gradients of q, k and v from the saved attention weights.

    The softmax's gradient needs, for each query, the sum over keys of the weights times their gradients. This
    equals the sum over features of the output times g (Dao et al., NeurIPS 2022, appendix B.2).
    """
    q, k, v, weights, out = residuals
    g = g.astype(q.dtype)
    total = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    grad_scores = matmul_columns(g, v) - total
    grad_scores = (weights.astype(jnp.float32) * grad_scores).astype(q.dtype)
    scale = q.shape[-1] ** -0.5
    grad_q = scale * matmul_f32(grad_scores, k)
    grad_k = scale * matmul_rows(grad_scores, q)
    grad_v = matmul_rows(weights, g)
    return *(grad.astype(q.dtype) for grad in (grad_q, grad_k, grad_v)), None


reference_attention.defvjp(_forward, _backward)
