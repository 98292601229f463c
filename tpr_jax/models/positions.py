"""Where the text tower reads the feature of a text. This module does not import Flax."""

from typing import overload

import numpy as np
from jaxtyping import Array, Bool, Int

from tpr_jax.models.config import ClipConfig


@overload
def end_positions(ids: Int[Array, "b l"], eot_id: int | None) -> Int[Array, " b"]: ...


@overload
def end_positions(ids: Int[np.ndarray, "b l"], eot_id: int | None) -> Int[np.ndarray, " b"]: ...


def end_positions(ids: Int[Array | np.ndarray, "b l"], eot_id: int | None) -> Int[Array | np.ndarray, " b"]:
    """Returns the position of each text's first `eot_id`, or of its highest id if `eot_id` is None."""
    return (ids if eot_id is None else ids == eot_id).argmax(axis=-1)


@overload
def read_positions(ids: Int[Array, "b l"], config: ClipConfig) -> Int[Array, " b"]: ...


@overload
def read_positions(ids: Int[np.ndarray, "b l"], config: ClipConfig) -> Int[np.ndarray, " b"]: ...


def read_positions(ids: Int[Array | np.ndarray, "b l"], config: ClipConfig) -> Int[Array | np.ndarray, " b"]:
    """Returns the position at which each text's feature is read; what follows it has no effect.

    Padding may thus be trimmed after a causal tower's end of text, and nowhere in a tower that is not causal.
    """
    if config.causal:
        return end_positions(ids, config.eot_id)
    return ids[:, 0] * 0 + (ids.shape[1] - 1)


def mark_words(ids: Int[Array | np.ndarray, "b l"], config: ClipConfig) -> Bool[Array | np.ndarray, "b l"]:
    """Returns which tokens are words: neither start nor end of text, nor padding.

    SigLIP's texts have no start, and end with padding. Which id that is depends on the tokenizer, but it is
    the last one of a row: in a row without padding, the last word is left out.
    """
    if not config.causal:
        return ids != ids[:, -1:]
    positions = np.arange(ids.shape[1])
    return (positions > 0) & (positions < end_positions(ids, config.eot_id)[:, None])
