"""A model's tokenizer as one file that does all: a text in, the row of ids that the text tower takes out."""

import tokenizers
from tokenizers import Regex, normalizers, processors

from tpr_jax.data.tokenizer import Tokenizer

# Of what is tidied before CLIP's own vocabulary, that which people write: capitals and curly quotes.
TIDIED = normalizers.Sequence(
    [
        normalizers.NFC(),
        normalizers.Replace(Regex("[\u02bc\u2018\u2019\u201a\u201b]"), "'"),
        normalizers.Replace(Regex("[\u201c\u201d\u201e\u201f]"), '"'),
        normalizers.Lowercase(),
    ]
)


def whole_tokenizer(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer with all that surrounds it built in: start and end of text, cutting, zeros behind.

    `encode(text).ids` is a row of `context_length` ids, the same as `tokenizer([text])[0]`. CLIP's own
    vocabulary goes with more tidying than a file can hold (HTML entities, ligatures, full-width letters,
    control characters, text decoded wrongly): docs/export.md says what to do with such texts.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    if backend.normalizer is None and tokenizer.split("A") == ["a"]:
        backend.normalizer = TIDIED
    start, end = (backend.id_to_token(i) for i in (tokenizer.sot_id, tokenizer.eot_id))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, tokenizer.sot_id), (end, tokenizer.eot_id)]
    )
    backend.enable_truncation(tokenizer.context_length)
    backend.enable_padding(length=tokenizer.context_length, pad_id=0, pad_token=backend.id_to_token(0))
    return backend
