"""Prompt tokens in the sequences of both towers, mapped from one to the other (CSKT, ICASSP 2024)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def map_tokens(tokens: Float[Array, "k n d"], linear: dict) -> Float[Array, "k n e"]:
    """Applies each layer's own linear map, `kernel` [k, d, e] and `bias` [k, e], to the layer's tokens."""
    return jnp.einsum("knd,kde->kne", tokens, linear["kernel"]) + linear["bias"][:, None]


def prompt_tokens(leaves: dict) -> tuple[Float[Array, "k p v"], Float[Array, "k q w"]]:
    """Returns the prompt tokens of each of k layers for the vision tower and for the text tower.

    Args:
      leaves: the towers' own tokens `visual` [k, n, v] and `text` [k, n, w], and where they exist the maps
        `to_visual` and `to_text`.

    Returns:
      `[map(text), visual]` for the vision tower and `[text, map(visual)]` for the text tower.
    """
    visual, text = leaves["visual"], leaves["text"]
    for_vision = [map_tokens(text, leaves["to_visual"])] if "to_visual" in leaves else []
    for_text = [map_tokens(visual, leaves["to_text"])] if "to_text" in leaves else []
    return jnp.concatenate([*for_vision, visual], axis=1), jnp.concatenate([text, *for_text], axis=1)


def insert_slots(
    ids: Int[Array | np.ndarray, "b l"], count: int, context: int, end: Int[Array | np.ndarray, " b"]
) -> tuple[Int[Array, "b m"], Int[Array, " b"]]:
    """Inserts `count` zeros after start-of-text and cuts the sequences to `context` tokens.

    Where this would push the end-of-text token off, the text is cut so that the token comes last.

    Args:
      ids: the token ids.
      count: the number of slots to insert.
      context: the maximum length.
      end: the position of each text's end-of-text token.

    Returns:
      The new ids and the new positions of the end-of-text tokens.
    """
    slots = jnp.zeros((ids.shape[0], count), ids.dtype)
    shifted = jnp.concatenate([ids[:, :1], slots, ids[:, 1:]], axis=1)[:, :context]
    last = shifted.shape[1] - 1
    end_ids = jnp.take_along_axis(ids, end[:, None], axis=1)
    pushed_off = (end + count > last)[:, None] & (jnp.arange(last + 1) == last)
    return jnp.where(pushed_off, end_ids, shifted), jnp.minimum(end + count, last)


def append_tokens(x: Float[Array, "b l d"], tokens: Float[Array, "p d"]) -> Float[Array, "b l+p d"]:
    """Appends tokens to the sequence of every example."""
    tokens = jnp.broadcast_to(tokens.astype(x.dtype), (x.shape[0], *tokens.shape))
    return jnp.concatenate([x, tokens], axis=1)


def replace_tokens(
    x: Float[Array, "b l d"], tokens: Float[Array, "p d"], start: int
) -> Float[Array, "b l d"]:
    """Replaces the tokens from position `start` on in the sequence of every example."""
    tokens = jnp.broadcast_to(tokens.astype(x.dtype), (x.shape[0], *tokens.shape))
    return jnp.concatenate([x[:, :start], tokens, x[:, start + tokens.shape[1] :]], axis=1)
