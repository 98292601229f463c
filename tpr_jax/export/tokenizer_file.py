"""Exports a tokenizer as one file that turns a text into the row of ids for the text tower."""

import tokenizers
from tokenizers import Regex, normalizers

from tpr_jax.data.siglip_tokenizer import template
from tpr_jax.data.tokenizer import Tokenizer

# The part of CLIP's text cleanup that a tokenizers file can hold: capitals and curly quotes.
NORMALIZER = normalizers.Sequence(
    [
        normalizers.NFC(),
        normalizers.Replace(Regex("[\u02bc\u2018\u2019\u201a\u201b]"), "'"),
        normalizers.Replace(Regex("[\u201c\u201d\u201e\u201f]"), '"'),
        normalizers.Lowercase(),
    ]
)


def standalone_tokenizer(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Returns a tokenizer that includes start and end of text, truncation and padding.

    `encode(text).ids` is a row of `context_length` ids, the same as `tokenizer([text])[0]`. CLIP's cleanup of
    texts does more than a file can hold (HTML entities, ligatures, full-width letters, control characters,
    wrongly decoded text): docs/export.md says what to do with such texts.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    if backend.normalizer is None and tokenizer.split("A") == ["a"]:
        backend.normalizer = NORMALIZER
    backend.post_processor = template(backend, tokenizer.sot_id, tokenizer.eot_id)
    backend.enable_truncation(tokenizer.length)
    pad_token = backend.id_to_token(tokenizer.pad_id) or ""
    backend.enable_padding(length=tokenizer.context_length, pad_id=tokenizer.pad_id, pad_token=pad_token)
    return backend
