"""Training a vocabulary: compared with recounting after each merge, and the layout of its ids."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.train_tokenizer import learn_merges, train_tokenizer
from tpr_jax.data.tokenizer import byte_tokens, folder_tokenizer
from tpr_jax.errors import UserError

CAPTIONS = ["A woman in a red coat.", "A man wears a red hat & a coat", "the woman's coat is red"] * 3


def naive_merges(words, count):
    spelled = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges, made, barred = [], set(), set()
    while len(merges) < count:
        pairs = Counter()
        for word, tokens in spelled.items():
            for pair in itertools.pairwise(tokens):
                pairs[pair] += words[word]
        left = [(-n, pair) for pair, n in pairs.items() if n >= 2 and pair not in barred]
        if not left:
            return merges
        pair = min(left)[1]
        if "".join(pair) in made:
            barred.add(pair)
            continue
        made.add("".join(pair))
        merges.append(pair)
        for tokens in spelled.values():
            i = 0
            while i < len(tokens) - 1:
                if (tokens[i], tokens[i + 1]) == pair:
                    tokens[i : i + 2] = ["".join(pair)]
                i += 1
    return merges


@given(st.lists(st.text("abc", min_size=1, max_size=7), max_size=25))
@settings(deadline=None)
def test_equals_recounting_after_each_merge(words):
    assert learn_merges(Counter(words), 12) == naive_merges(Counter(words), 12)


def test_layout_and_round_trip(tmp_path):
    size = train_tokenizer(CAPTIONS, 600, tmp_path / "tokenizer.json")
    tokenizer = folder_tokenizer(tmp_path)
    assert tokenizer.vocab_size == size <= 600
    assert (tokenizer.mask_id, tokenizer.sot_id, tokenizer.eot_id) == (size - 3, size - 2, size - 1)
    vocab = tokenizer.backend.get_vocab()
    assert sorted(vocab.values()) == list(range(size))
    assert [vocab[token] for token in byte_tokens()] == list(range(512)) and vocab["!"] == 0
    row = tokenizer(["A WOMAN in a <|mask|> coat “here”"])[0]
    tokens = [tokenizer.backend.id_to_token(i) for i in row if i]
    assert tokens[:3] == ["<|startoftext|>", "a</w>", "woman</w>"]
    assert "<|mask|>" in tokens and tokens.count('"</w>') == 2 and tokens[-1] == "<|endoftext|>"
    # Characters of no caption are still encoded, as bytes.
    assert (tokenizer(["日本 Ünï"])[0] > 0).sum() > 8


def test_is_deterministic(tmp_path):
    for name in ("a.json", "b.json"):
        train_tokenizer(iter(CAPTIONS), 560, tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert len(json.loads((tmp_path / "a.json").read_text())["model"]["merges"]) <= 560 - 515


def test_a_learned_word_is_one_token(tmp_path):
    train_tokenizer(["umbrella"] * 4, 700, tmp_path / "t.json")
    assert np.count_nonzero(folder_tokenizer(tmp_path / "t.json")(["umbrella"])) == 3


def test_rejects_a_too_small_vocabulary(tmp_path):
    with pytest.raises(UserError, match="vocab_size 515 is too small"):
        train_tokenizer(CAPTIONS, 515, tmp_path / "t.json")
