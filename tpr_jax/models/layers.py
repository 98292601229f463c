"""CLIP's layers that hold no part of a method: activations, LayerNorm."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

normal = nn.initializers.normal
zeros, ones = nn.initializers.zeros, nn.initializers.ones


def rematerialized(function: Callable) -> Callable:
    """The function, of which the backward pass keeps the arguments alone: all else is cheap to have again.

    Left to itself JAX keeps several float32 arrays of an activation or a LayerNorm.
    """
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(
        lambda *arguments: (function(*arguments), arguments),
        lambda arguments, g: jax.vjp(function, *arguments)[1](g),
    )
    return wrapped


@rematerialized
def quick_gelu(x: Array) -> Array:
    """`x * sigmoid(1.702 x)`, the GELU that CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": rematerialized(lambda x: jax.nn.gelu(x, approximate=False))}


def layer_norm(x: Float[Array, "... d"], scale, bias, eps: float) -> Float[Array, "... d"]:
    """LayerNorm in float32 whatever x's type; returns x's type."""

    @rematerialized
    def normalized(x, scale, bias):
        y = x.astype(jnp.float32)
        centered = y - y.mean(-1, keepdims=True)
        y = centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + eps)
        return (y * scale + bias).astype(x.dtype)

    return normalized(x, scale, bias)


def variable_in(module: nn.Module, collection: str):
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
        leaf = variable_in(self, self.collection)
        return layer_norm(x, leaf("scale", ones, x.shape[-1:]), leaf("bias", zeros, x.shape[-1:]), self.eps)
