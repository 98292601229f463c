"""CLIP's layers without parts in them: activations and LayerNorm."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

normal = nn.initializers.normal
zeros, ones = nn.initializers.zeros, nn.initializers.ones


def activation(function: Callable) -> Callable:
    """Wraps an activation so that it computes in float32, and saves only its input for the backward pass.

    By default JAX would save several float32 arrays, and round to the input's type after each operation,
    which takes a CPU longer than the operations.
    """

    @functools.wraps(function)
    def apply(x):
        return function(x.astype(jnp.float32)).astype(x.dtype)

    wrapped = jax.custom_vjp(apply)
    wrapped.defvjp(lambda x: (apply(x), x), lambda x, g: jax.vjp(apply, x)[1](g))
    return wrapped


@activation
def quick_gelu(x: Array) -> Array:
    """Computes `x * sigmoid(1.702 x)`, the approximate GELU that CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "quick_gelu": quick_gelu,
    "gelu": activation(lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": activation(lambda x: jax.nn.gelu(x, approximate=True)),
}


def layer_norm(
    x: Float[Array, "*batch d"], scale: Float[Array, " d"], bias: Float[Array, " d"], eps: float
) -> Float[Array, "*batch d"]:
    """Computes LayerNorm in float32 and returns it in the dtype of x."""
    return _layer_norm(x, scale, bias, eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x, scale, bias, eps):
    return _layer_norm_forward(x, scale, bias, eps)[0]


def _layer_norm_forward(x, scale, bias, eps):
    """Saves x in its own dtype, and the mean and the reciprocal deviation of each token."""
    y = x.astype(jnp.float32)
    mean = y.mean(-1)
    centered = y - mean[..., None]
    rate = jax.lax.rsqrt(jnp.square(centered).mean(-1) + eps)
    y = centered * rate[..., None]
    return (y * scale + bias).astype(x.dtype), (x, mean, rate, scale, bias)


def _layer_norm_backward(eps, residuals, g):
    x, mean, rate, scale, bias = residuals
    g = g.astype(jnp.float32)
    normalized = (x.astype(jnp.float32) - mean[..., None]) * rate[..., None]
    axes = tuple(range(x.ndim - 1))
    grad_scale, grad_bias = (g * normalized).sum(axes), g.sum(axes)
    g = g * scale
    # The output does not change if a constant or a multiple of the output is added to x.
    along = (g * normalized).mean(-1, keepdims=True)
    grad_x = rate[..., None] * (g - g.mean(-1, keepdims=True) - normalized * along)
    return grad_x.astype(x.dtype), grad_scale.astype(scale.dtype), grad_bias.astype(bias.dtype)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


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
