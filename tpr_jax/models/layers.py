"""CLIP's layers that hold no part of a method: activations, LayerNorm, attention's mathematics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.products import matmul

normal = nn.initializers.normal
zeros, ones = nn.initializers.zeros, nn.initializers.ones


def quick_gelu(x: Array) -> Array:
    """`x * sigmoid(1.702 x)`, the GELU that CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": lambda x: jax.nn.gelu(x, approximate=False)}


def layer_norm(x: Float[Array, "... d"], scale, bias, eps: float) -> Float[Array, "... d"]:
    """LayerNorm in float32 whatever x's type; returns x's type."""
    y = x.astype(jnp.float32)
    centred = y - y.mean(-1, keepdims=True)
    y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    return (y * scale + bias).astype(x.dtype)


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

    q: [b, h, l, c]; k, v: [b, h, m, c]; the mask, [l, m] or None, adds to the scores.
    """
    scores = matmul(q * q.shape[-1] ** -0.5, jnp.swapaxes(k, -1, -2)).astype(jnp.float32)
    if mask is not None:
        scores = scores + mask
    return matmul(jax.nn.softmax(scores, axis=-1).astype(q.dtype), v)


def leaf_of(module: nn.Module, collection: str):
    """A maker of leaves in `collection`: its name is the freezing rule, so trainable parts never sit in
    `params`."""

    def leaf(name, init, shape):
        return module.variable(collection, name, lambda: init(module.make_rng("params"), shape)).value

    return leaf


class LayerNorm(nn.Module):
    """LayerNorm whose scale and bias live in `collection`."""

    eps: float
    collection: str = "params"

    @nn.compact
    def __call__(self, x):
        leaf = leaf_of(self, self.collection)
        return layer_norm(x, leaf("scale", ones, x.shape[-1:]), leaf("bias", zeros, x.shape[-1:]), self.eps)
