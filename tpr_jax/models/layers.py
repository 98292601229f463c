"""CLIP's layers without parts in them: activations and LayerNorm."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

normal = nn.initializers.normal
zeros, ones = nn.initializers.zeros, nn.initializers.ones


def rematerialized(function: Callable) -> Callable:
    """Wraps a cheap function so that it saves only its inputs and recomputes the rest in the backward pass.

    By default JAX would save several float32 arrays of an activation or a LayerNorm.
    """
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(
        lambda *inputs: (function(*inputs), inputs),
        lambda inputs, g: jax.vjp(function, *inputs)[1](g),
    )
    return wrapped


@rematerialized
def quick_gelu(x: Array) -> Array:
    """Computes `x * sigmoid(1.702 x)`, the approximate GELU that CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "quick_gelu": quick_gelu,
    "gelu": rematerialized(lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": rematerialized(lambda x: jax.nn.gelu(x, approximate=True)),
}


def layer_norm(
    x: Float[Array, "*batch d"], scale: Float[Array, " d"], bias: Float[Array, " d"], eps: float
) -> Float[Array, "*batch d"]:
    """Computes LayerNorm in float32 and returns it in the dtype of x."""

    @rematerialized
    def normalized(x, scale, bias):
        y = x.astype(jnp.float32)
        centered = y - y.mean(-1, keepdims=True)
        y = centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + eps)
        return (y * scale + bias).astype(x.dtype)

    return normalized(x, scale, bias)


def variable_in(module: nn.Module, collection: str) -> Callable[..., Array]:
    """Returns `leaf(name, init, shape)`, which creates or reads a variable of `module` in `collection`.

    A collection's name decides whether it is frozen, so trainable parts never live in `params`.
    """

    def leaf(name, init, shape):
        return module.variable(collection, name, lambda: init(module.make_rng("params"), shape)).value

    return leaf


class LayerNorm(nn.Module):
    """LayerNorm whose scale and bias live in `collection`."""

    eps: float
    collection: str = "params"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Normalizes the last axis of x."""
        leaf = variable_in(self, self.collection)
        return layer_norm(x, leaf("scale", ones, x.shape[-1:]), leaf("bias", zeros, x.shape[-1:]), self.eps)
