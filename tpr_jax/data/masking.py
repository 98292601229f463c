"""Masks caption tokens, as augmentation and as the target of masked language modeling."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32


def mask_caption(
    ids: Int32[np.ndarray, " l"],
    mask_id: int,
    seed: int | Sequence[int],
    *,
    probability: float = 0.15,
    words: range | None = None,
) -> tuple[Int32[np.ndarray, " l"], Int32[np.ndarray, " l"]]:
    """Masks tokens of a caption at random.

    Each id of `words` is selected with `probability`. Of the selected ids, 80 % become `mask_id`, 10 % a
    uniformly drawn id of `words`, and 10 % stay (BERT, arXiv 1810.04805, section 3.1). Padding, the mask
    itself, and start and end of text are never selected. If no id is selected, the position after start of
    text becomes the mask, except in a caption without words.

    Args:
      ids: the token ids.
      mask_id: the id of the mask token.
      seed: any argument of `np.random.default_rng`.
      probability: the probability of selecting a token.
      words: the ids of words; by default 1..mask_id-1, as in CLIP, where padding is 0 and start and end of
        text are above `mask_id`.

    Returns:
      The masked ids, and the labels: the original ids of the selected positions, 0 elsewhere.
    """
    rng = np.random.default_rng(seed)
    draw, action = rng.random((2, len(ids)))
    # Excludes the mask itself: the authors' code draws below it, although its comment says otherwise.
    words = words or range(1, max(mask_id, 2))
    random_ids = rng.integers(words.start, words.stop, len(ids), dtype=np.int32)
    is_word = (ids >= words.start) & (ids < words.stop) & (ids != mask_id)
    selected = is_word & (draw < probability)
    masked = np.where(selected & (action < 0.8), np.int32(mask_id), ids)
    masked = np.where(selected & (action >= 0.8) & (action < 0.9), random_ids, masked)
    if not selected.any() and is_word.any():
        selected = np.arange(len(ids)) == (0 if is_word[0] else 1)
        masked = np.where(selected, np.int32(mask_id), ids)
    return masked.astype(np.int32), np.where(selected, ids, 0).astype(np.int32)
