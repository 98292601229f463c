"""Prefix tokens: learned keys and values (Li and Liang, ACL 2021) and UP-Person's S-Prefix."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def prefix_tokens(
    leaves: dict,
) -> tuple[Float[Array | np.ndarray, "m d"], Float[Array | np.ndarray, "m d"]]:
    """Folds the learned scalars of a block's prefix into its tokens.

    Multiplying the softmax's prefix columns by S-Prefix's gate, without renormalizing, equals multiplying the
    prefix values by it, so any implementation of attention can be used.

    Args:
      leaves: `key` and `value` [m, d], JAX or NumPy, and where the part has them the scalars `key_scale`,
        `value_scale` and `gate`.

    Returns:
      The key tokens and the value tokens.
    """
    key = leaves.get("key_scale", 1.0) * leaves["key"]
    value = leaves.get("value_scale", 1.0) * leaves.get("gate", 1.0) * leaves["value"]
    return key, value


def with_prefix(tokens: Float[Array, "m d"], x: Float[Array, "b h l c"]) -> Float[Array, "b h m+l c"]:
    """Prepends prefix tokens, split into heads, to the keys or values of every example.

    The reference inserts them after the first token; attention does not depend on the order of its keys.
    """
    b, h, _, c = x.shape
    split = jnp.swapaxes(tokens.astype(x.dtype).reshape(-1, h, c), 0, 1)
    return jnp.concatenate([jnp.broadcast_to(split, (b, *split.shape)), x], axis=2)


def mask_with_prefix(
    mask: Float[Array, "*b q k"] | None, length: int
) -> Float[Array, "*b q {length}+k"] | None:
    """Extends an additive attention mask so that every query sees `length` prefix keys."""
    return mask if mask is None else jnp.pad(mask, ((0, 0),) * (mask.ndim - 1) + ((length, 0),))
