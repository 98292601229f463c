"""Masking of caption tokens: augmentation of the text, and the target of masked language modeling."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32


def mask_caption(
    ids: Int32[np.ndarray, " l"], mask_id: int, seed: int | Sequence[int], *, probability: float = 0.15
) -> tuple[Int32[np.ndarray, " l"], Int32[np.ndarray, " l"]]:
    """Masks tokens at random; returns (masked ids, labels), the labels 0 where nothing was chosen.

    Every id in 1..mask_id-1 is chosen with `probability`. Of the chosen, 80 % become `mask_id`, 10 % a
    uniform id of 1..mask_id-1, 10 % stay (BERT, arXiv 1810.04805, section 3.1). Padding (0), the mask itself,
    and start and end of text, whose ids lie above `mask_id`, are never chosen. If none was chosen, position 1
    becomes the mask; a caption without a single word keeps all its ids, since its position 1 is the end of
    text, where the feature is read. `seed` is whatever `np.random.default_rng` takes.
    """
    rng = np.random.default_rng(seed)
    draw, action = rng.random((2, len(ids)))
    # Without the mask itself: the authors' code draws below it, though its comment says otherwise.
    random_ids = rng.integers(1, max(mask_id, 2), len(ids), dtype=np.int32)
    words = (ids > 0) & (ids < mask_id)
    chosen = words & (draw < probability)
    masked = np.where(chosen & (action < 0.8), np.int32(mask_id), ids)
    masked = np.where(chosen & (action >= 0.8) & (action < 0.9), random_ids, masked)
    if not chosen.any() and words.any():
        chosen = np.arange(len(ids)) == 1
        masked = np.where(chosen, np.int32(mask_id), ids)
    return masked.astype(np.int32), np.where(chosen, ids, 0).astype(np.int32)
