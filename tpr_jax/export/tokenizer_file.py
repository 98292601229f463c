"""Exports a tokenizer as one file that turns a text into the row of ids for the text tower."""

import tokenizers

from tpr_jax.data.siglip_tokenizer import template
from tpr_jax.data.tokenizer import Tokenizer


def standalone_tokenizer(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Returns a tokenizer that includes start and end of text, truncation and padding.

    `encode(text).ids` is a row of `context_length` ids, the same as `tokenizer([text])[0]`. CLIP's cleanup of
    texts does more than a file can hold (HTML entities, ligatures, full-width letters, control characters,
    wrongly decoded text): docs/export.md says what to do with such texts.
    """
    backend = tokenizer.file_backend()
    backend.post_processor = template(backend, tokenizer.sot_id, tokenizer.eot_id)
    backend.enable_truncation(tokenizer.length)
    pad_token = backend.id_to_token(tokenizer.pad_id) or ""
    backend.enable_padding(length=tokenizer.context_length, pad_id=tokenizer.pad_id, pad_token=pad_token)
    return backend
