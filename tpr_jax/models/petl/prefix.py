"""Prefix tokens: learned keys and values (Li and Liang, ACL 2021) and UP-Person's S-Prefix."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def prefix_tokens(leaves: dict) -> tuple[Float[Array, "m d"], Float[Array, "m d"]]:
    """The key and value tokens of a block, with its scalars folded in.

    `leaves` holds `key` and `value` [m, d], and as the part has them the scalars `key_scale`, `value_scale`
    and S-Prefix's `gate`. Multiplying the softmax's prefix columns by the gate, without renormalizing, is the
    same as multiplying the prefix values: so any attention serves.
    """
    key = leaves.get("key_scale", 1.0) * leaves["key"]
    value = leaves.get("value_scale", 1.0) * leaves.get("gate", 1.0) * leaves["value"]
    return key, value


def with_prefix(tokens: Float[Array, "m d"], x: Float[Array, "b h l c"]) -> Float[Array, "b h m+l c"]:
    """Puts the tokens, split into heads, before those of every example.

    The reference inserts them behind the first token; attention does not depend on the order of its keys.
    """
    b, h, _, c = x.shape
    split = jnp.swapaxes(tokens.astype(x.dtype).reshape(-1, h, c), 0, 1)
    return jnp.concatenate([jnp.broadcast_to(split, (b, *split.shape)), x], axis=2)


def mask_with_prefix(
    mask: Float[Array, "*b q k"] | None, length: int
) -> Float[Array, "*b q {length}+k"] | None:
    """The mask of the attention's scores with the prefix in view of every query."""
    return mask if mask is None else jnp.pad(mask, ((0, 0),) * (mask.ndim - 1) + ((length, 0),))
