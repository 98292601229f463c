"""Prompt tokens in the sequences of both towers, mapped from one to the other (CSKT, ICASSP 2024)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def mapped(tokens: Float[Array, "k n d"], linear: dict) -> Float[Array, "k n e"]:
    """Each layer's tokens through its own linear map; `linear` holds `kernel` [k, d, e], `bias` [k, e]."""
    return jnp.einsum("knd,kde->kne", tokens, linear["kernel"]) + linear["bias"][:, None]


def prompt_tokens(leaves: dict) -> tuple[Float[Array, "k p v"], Float[Array, "k q w"]]:
    """The tokens of each of k layers for the vision tower and for the text tower.

    `leaves` holds the own tokens `visual` [k, n, v] and `text` [k, n, w], and the maps `to_visual` and
    `to_text` where there are some. Vision: `[map(text), visual]`; text: `[text, map(visual)]`.
    """
    visual, text = leaves["visual"], leaves["text"]
    for_vision = [mapped(text, leaves["to_visual"])] if "to_visual" in leaves else []
    for_text = [mapped(visual, leaves["to_text"])] if "to_text" in leaves else []
    return jnp.concatenate([*for_vision, visual], axis=1), jnp.concatenate([text, *for_text], axis=1)


def make_room(
    ids: Int[Array, "b l"], count: int, context: int, end: Int[Array, " b"]
) -> tuple[Int[Array, "b m"], Int[Array, " b"]]:
    """Shifts ids right by `count` behind start-of-text, cut to `context`; returns (ids, where texts end).

    Where the end-of-text, at `end`, would be pushed off, the text is cut so that it comes last.
    """
    slots = jnp.zeros((ids.shape[0], count), ids.dtype)
    shifted = jnp.concatenate([ids[:, :1], slots, ids[:, 1:]], axis=1)[:, :context]
    last = shifted.shape[1] - 1
    ending = jnp.take_along_axis(ids, end[:, None], axis=1)
    pushed_off = (end + count > last)[:, None] & (jnp.arange(last + 1) == last)
    return jnp.where(pushed_off, ending, shifted), jnp.minimum(end + count, last)


def replace(x: Float[Array, "b l d"], tokens: Float[Array, "p d"], start: int) -> Float[Array, "b l d"]:
    """The sequence with the tokens at positions `start`, ... of every example."""
    tokens = jnp.broadcast_to(tokens.astype(x.dtype), (x.shape[0], *tokens.shape))
    return jnp.concatenate([x[:, :start], tokens, x[:, start + tokens.shape[1] :]], axis=1)
