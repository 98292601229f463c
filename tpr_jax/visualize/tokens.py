"""Token ids back to something that can be read, in the places that they have in the text tower."""

import numpy as np
from jaxtyping import Int

from tpr_jax.data.tokenizer import WORD_END, Tokenizer, byte_tokens
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.petl.prompts import insert_slots
from tpr_jax.models.petl_config import Prompts, text_tokens

START, END, PROMPT = "[start]", "[end]", "[prompt]"


def placed(
    ids: Int[np.ndarray, "b l"], config: ClipConfig, prompts: Prompts | None = None
) -> tuple[Int[np.ndarray, "b m"], Int[np.ndarray, "b"]]:
    """(ids as they stand in the tower's sequence, where the texts end).

    Prompts take places behind start of text, and what they push off at the end is cut, as the tower does it.
    """
    ends = np.argmax(ids if config.eot_id is None else ids == config.eot_id, axis=1)
    if count := text_tokens(prompts):
        ids, ends = (np.asarray(out) for out in insert_slots(ids, count, config.context_length, ends))
    return ids, ends


def labels(
    tokenizer: Tokenizer, ids: Int[np.ndarray, "l"], config: ClipConfig, prompts: Prompts | None = None
) -> list[str]:
    """What stands at each place of the tower's sequence, from start of text to end of text."""
    (row,), (end,) = placed(ids[None], config, prompts)
    count = text_tokens(prompts)
    inner = [PROMPT if place <= count else piece(tokenizer, int(row[place])) for place in range(1, end)]
    return [START, *inner, END]


def piece(tokenizer: Tokenizer, token: int) -> str:
    """A token as text. A byte-level one is decoded; what is no whole character of UTF-8 becomes U+FFFD."""
    text = (tokenizer.backend.id_to_token(token) or f"[{token}]").removesuffix(WORD_END)
    if text and all(letter in _BYTE for letter in text):
        return bytes(_BYTE[letter] for letter in text).decode("utf-8", "replace")
    return text.replace("\u2581", " ").strip() or text


# The letters by which byte-level tokens are spelled, in the order of `byte_tokens`, and their bytes.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_ORDER = [*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)]
_BYTE = dict(zip(byte_tokens()[:256], _ORDER, strict=True))
