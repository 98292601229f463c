"""The exported tokenizer gives the same rows, with the `tokenizers` library alone."""

import html

import ftfy
import numpy as np
import pytest
import tokenizers

from tpr_jax.data.tokenizer import clip_tokenizer, folder_tokenizer
from tpr_jax.export.tokenizer_file import standalone_tokenizer
from tpr_jax.weights.backbone import clip_mini_dir

TEXTS = [
    "",
    "A Woman in a RED coat, with a white bag.",
    "  two   spaces\tand\na line ",
    "the man\u2019s \u201cnew\u201d jacket doesn't fit; it's 2 sizes up!!",
    "caf\u00e9, cafe\u0301, \u4e00\u4e2a\u7a7f\u7ea2\u8272\u5916\u5957\u7684\u5973\u4eba",
    "word " * 200,
    "aquamarine-ish 1234 trousers?",
    "\U0001f600 smile",
]


@pytest.mark.parametrize(
    "tokenizer",
    [
        clip_tokenizer(),
        clip_tokenizer(12),
        folder_tokenizer(clip_mini_dir()),
        folder_tokenizer(clip_mini_dir(), 9),
    ],
    ids=["clip", "clip_short", "clip_mini", "clip_mini_short"],
)
def test_gives_the_same_rows(tokenizer, tmp_path):
    before = tokenizer.backend.to_str()
    standalone_tokenizer(tokenizer).save(str(tmp_path / "tokenizer.json"))
    loaded = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rows = np.array([loaded.encode(text).ids for text in TEXTS], np.int32)
    assert rows.shape == (len(TEXTS), tokenizer.context_length)
    np.testing.assert_array_equal(rows, tokenizer(TEXTS))
    assert tokenizer.backend.to_str() == before  # the model's tokenizer is unchanged


@pytest.mark.parametrize(
    "text", ["a b &amp; c", "\ufb01ne", "\uff21 coat", "caf\u00c3\u00a9", "red\u0092s", "a\x07b"]
)
def test_cleanup_of_the_docs_makes_up_for_what_the_file_lacks(text):
    """These texts differ, unless the two functions that docs/export.md names clean them first."""
    clip = clip_tokenizer()
    file = standalone_tokenizer(clip)
    assert file.encode(text).ids != clip([text])[0].tolist()
    cleaned = html.unescape(html.unescape(ftfy.fix_text(text)))
    assert file.encode(cleaned).ids == clip([text])[0].tolist()
