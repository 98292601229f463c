"""Tokenizers: the released code's ids, plain byte-pair encoding as the oracle, and any text at all."""

import dataclasses
import gzip
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tpr_jax.data.clean_text import clean
from tpr_jax.data.tokenizer import MERGES, byte_tokens, clip_tokenizer, folder_tokenizer
from tpr_jax.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizer.json").read_text())


@pytest.fixture(scope="module")
def clip():
    return clip_tokenizer()


@pytest.fixture(scope="module")
def plain_folder(clip, tmp_path_factory):
    """A folder like Hugging Face's CLIP: no mask in the vocabulary, settings in the file."""
    folder = tmp_path_factory.mktemp("clip")
    content = json.loads(clip.backend.to_str())
    vocab = content["model"]["vocab"]
    vocab["jekyll</w>"] = vocab.pop("<|mask|>")
    content["model"]["merges"].append(["jeky", "ll</w>"])
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<|mask|>"]
    content["normalizer"] = {"type": "Lowercase"}
    content["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 49407, "pad_type_id": 0, "pad_token": "<|endoftext|>",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def plain(plain_folder):
    return folder_tokenizer(plain_folder)


@pytest.fixture(scope="module")
def ranks_and_ids():
    """Returns the rank of each merge and the id of each token, directly from the list of merges."""
    merges = [tuple(line.split(" ")) for line in gzip.decompress(MERGES.read_bytes()).decode().splitlines()]
    tokens = byte_tokens() + ["".join(pair) for pair in merges]
    return {pair: i for i, pair in enumerate(merges)}, {token: i for i, token in enumerate(tokens)}


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: repr(case["text"][:20]))
def test_golden(clip, case):
    np.testing.assert_array_equal(clip([case["text"]])[0], case["ids"])


def test_the_ids_of_the_special_tokens(clip):
    assert clip.vocab_size == GOLDEN["vocab_size"]
    assert (clip.mask_id, clip.sot_id, clip.eot_id) == (GOLDEN["mask"], GOLDEN["sot"], GOLDEN["eot"])
    assert clip([]).shape == (0, 77)
    assert clip(["a"]).dtype == np.int32


def test_the_word_that_the_mask_displaced(clip):
    merges = gzip.decompress(MERGES.read_bytes()).decode().splitlines()
    assert len(merges) == 48_893 and merges[0] == "i n"
    row = clip(["jekyll"])[0]
    pieces = [clip.backend.id_to_token(i) for i in row[1:3]]
    assert pieces == ["jeky", "ll</w>"] and row[3] == clip.eot_id


def plain_encoding(word, ranks, ids):
    """Encodes byte pairs by definition: repeatedly joins the pair that was learned first."""
    letters = byte_tokens()[:256]
    order = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order += [byte for byte in range(256) if byte not in order]
    spell = {byte: letters[i] for i, byte in enumerate(order)}
    tokens = [spell[byte] for byte in word.encode()]
    tokens[-1] += "</w>"
    while True:
        pairs = [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(tokens)) if pair in ranks]
        if not pairs:
            return [ids[token] for token in tokens]
        i = min(pairs)[1]
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyzéßñ日", min_size=1, max_size=12), min_size=1, max_size=5))
@settings(deadline=None, max_examples=60)
@example(["jekyll", "glorptastic", "xqz", "naïve"])
def test_equals_plain_byte_pair_encoding(clip, ranks_and_ids, words):
    text = " ".join(words)
    expected = [i for word in clean(text).split() for i in plain_encoding(word, *ranks_and_ids)][:75]
    row = clip([text])[0]
    assert row[1 : 1 + len(expected)].tolist() == expected
    assert row[1 + len(expected)] == clip.eot_id


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)  # lone surrogates and controls too


@given(st.lists(ANY_TEXT, max_size=4))
@settings(deadline=None)
@example(["\ud800", "\udfff\ud800", "\x00", "", " \t\n", "&#xD800; &#0; &", "\x1b[31m", "<|endoftext|>" * 99])
def test_accepts_any_text(clip, plain, texts):
    for tokenizer in (clip, plain):
        ids = tokenizer(texts)
        assert ids.shape == (len(texts), 77)
        assert (ids >= 0).all() and (ids < tokenizer.vocab_size).all()
        assert (ids[:, 0] == tokenizer.sot_id).all()
        assert (ids == tokenizer.eot_id).any(axis=1).all()


def test_texts_of_every_length_end_with_end_of_text(clip):
    for text in ("x" * 100_000, "a " * 50_000, "é" * 100_000, "!?" * 50_000):
        row = clip([text])[0]
        assert row[-1] == clip.eot_id and (row[1:-1] != clip.eot_id).all()
    for words in (74, 75, 76):
        row = clip(["a " * words])[0]
        assert (row == clip.eot_id).sum() == 1 and row[min(words, 75) + 1] == clip.eot_id
    assert (
        clip_tokenizer(context_length=8)(["a red coat and a blue hat today"])[0].tolist()[-1] == clip.eot_id
    )


def test_encodes_a_text_the_same_alone_and_in_a_batch(clip):
    texts = [case["text"] for case in GOLDEN["cases"]]
    np.testing.assert_array_equal(clip(texts), np.concatenate([clip([text]) for text in texts]))


def test_rejects_a_single_string(clip):
    with pytest.raises(TypeError, match="list of texts"):
        clip("a man")


class CountingBackend:
    """Passes batches on to a backend, and records the pieces that it encodes."""

    __class__ = tokenizers.Tokenizer  # to isinstance, which the enforced annotations ask

    def __init__(self, backend):
        self.backend, self.batches = backend, []

    def encode_batch_fast(self, pieces, **settings):
        self.batches.append(list(pieces))
        return self.backend.encode_batch_fast(pieces, **settings)


def test_encodes_each_distinct_word_of_a_benchmark_once(clip, monkeypatch):
    """Also does not run ftfy on plain text. Because of both, 80,000 captions take seconds."""
    monkeypatch.setattr("ftfy.fix_text", lambda text: pytest.fail(f"ftfy was called with {text!r}"))
    words = re.findall(r"[A-Za-z0-9]+", " ".join(case["text"] for case in GOLDEN["cases"]))
    draw = np.random.default_rng(0).integers(len(words), size=(8_000, 24))
    captions = [" ".join(words[i] for i in row) + f", no {n}." for n, row in enumerate(draw)]
    counting = CountingBackend(clip.backend)
    assert dataclasses.replace(clip, backend=counting)(captions).shape == (8_000, 77)
    (pieces,) = counting.batches
    distinct = {piece for caption in captions for piece in caption.lower().split()}
    assert sorted(pieces) == sorted(distinct) and len(pieces) < 8_000 * 26 / 15


def test_a_plain_folder(plain_folder, clip):
    tokenizer = folder_tokenizer(plain_folder)
    assert (tokenizer.sot_id, tokenizer.eot_id, tokenizer.mask_id) == (49406, 49407, 49405)
    assert tokenizer.vocab_size == 49408 and tokenizer.context_length == 77
    text = "A woman in a red coat and black trousers carries a brown handbag."
    np.testing.assert_array_equal(tokenizer([text]), clip([text]))
    assert tokenizer(["jekyll"])[0, 1] == 49405
    assert folder_tokenizer(plain_folder, context_length=12)([text]).shape == (1, 12)
    (plain_folder / "config.json").write_text('{"text_config": {"max_position_embeddings": 16}}')
    assert folder_tokenizer(plain_folder).context_length == 16
    (plain_folder / "config.json").unlink()


def test_a_folder_whose_tokens_cross_spaces(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {t: i for i, t in enumerate(["▁", "a", "b", "▁a", "▁b", "<|startoftext|>", "<|endoftext|>"])}
    backend = Tokenizer(models.BPE(vocab, [("▁", "a"), ("▁", "b")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.save(str(tmp_path / "tokenizer.json"))
    row = folder_tokenizer(tmp_path, context_length=8)(["a b a"])[0]
    assert row.tolist() == [5, 1, 4, 3, 6, 0, 0, 0]


def test_folders_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer.json: no such file"):
        folder_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer.json: not a tokenizer"):
        folder_tokenizer(tmp_path)
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="does not belong to a CLIP"):
        folder_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("tokens", "mask", "words"),
    [
        (("<|startoftext|>", "<|endoftext|>", "a", "b"), None, range(2, 4)),  # 0 has no id below it
        (("x", "<|endoftext|>", "<|startoftext|>", "a", "b"), None, range(3, 5)),  # end of text is below it
        (("x", "a", "b", "<|startoftext|>", "<|endoftext|>"), 2, range(1, 2)),  # as in CLIP
        (("x", "<mask>", "a", "b", "<|startoftext|>", "<|endoftext|>"), 1, range(2, 4)),
        (("x", "a", "b", "[MASK]", "<|startoftext|>", "<|endoftext|>"), 3, range(1, 3)),
    ],
)
def test_the_mask_and_the_words(tmp_path, tokens, mask, words):
    """The mask is a token of its own, or CLIP's last word; words are the longest run of other ids."""
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="a"))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = folder_tokenizer(tmp_path, context_length=6)
    assert (tokenizer.mask_id, tokenizer.words) == (mask, words)
