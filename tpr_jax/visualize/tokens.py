"""Decodes token ids to readable labels, at their positions in the text tower."""

import numpy as np
from jaxtyping import Int

from tpr_jax.data.tokenizer import WORD_END, Tokenizer, byte_tokens
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.petl.prompts import insert_slots
from tpr_jax.models.petl_config import Prompts, text_tokens

START, END, PROMPT = "[start]", "[end]", "[prompt]"


def tower_ids(
    ids: Int[np.ndarray, "b l"],
    config: ClipConfig,
    prompts: Prompts | None = None,
    tokenizer: Tokenizer | None = None,
) -> tuple[Int[np.ndarray, "b m"], Int[np.ndarray, " b"]]:
    """Returns the ids in the text tower's sequence and the position of end of text.

    As in CLIP's tower, prompts are inserted after start of text and the end is truncated. In SigLIP's tower
    they follow the padded text, and are left out here.
    """
    if not config.causal:
        assert tokenizer is not None  # it has made the ids
        is_end = ids == (tokenizer.pad_id if tokenizer.eot_id is None else tokenizer.eot_id)
        return ids, np.where(is_end.any(1), is_end.argmax(1), ids.shape[1] - 1)
    ends = np.argmax(ids if config.eot_id is None else ids == config.eot_id, axis=1)
    if count := text_tokens(prompts):
        ids, ends = (np.asarray(out) for out in insert_slots(ids, count, config.context_length, ends))
    return ids, ends


def token_labels(
    tokenizer: Tokenizer, ids: Int[np.ndarray, " l"], config: ClipConfig, prompts: Prompts | None = None
) -> list[str]:
    """Returns a label for each position of the tower's sequence, up to end of text."""
    (row,), (end,) = tower_ids(ids[None], config, prompts, tokenizer)
    if not config.causal:
        return [*(token_text(tokenizer, int(i)) for i in row[:end]), END]
    count = text_tokens(prompts)
    inner = [PROMPT if i <= count else token_text(tokenizer, int(row[i])) for i in range(1, end)]
    return [START, *inner, END]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Decodes a token; bytes that are not a complete UTF-8 character become U+FFFD."""
    text = (tokenizer.backend.id_to_token(token) or f"[{token}]").removesuffix(WORD_END)
    if text and all(letter in _BYTE for letter in text):
        return bytes(_BYTE[letter] for letter in text).decode("utf-8", "replace")
    return text.replace("\u2581", " ").strip() or text


# Byte-level tokenizers spell bytes with these letters; in the order of `byte_tokens`.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_ORDER = [*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)]
_BYTE = dict(zip(byte_tokens()[:256], _ORDER, strict=True))
