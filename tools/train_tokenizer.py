"""Trains a small byte-pair vocabulary with the same layout as CLIP's."""

import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable

import tokenizers
from tokenizers import normalizers

from tpr_jax.data.clean_text import clean
from tpr_jax.data.tokenizer import SPECIAL, WORD_END, byte_pair_backend, byte_tokens
from tpr_jax.errors import UserError
from tpr_jax.utils.files import write_text


def train_tokenizer(captions: Iterable[str], vocab_size: int, path: str | os.PathLike) -> int:
    """Learns merges from captions and writes them as a `tokenizer.json`.

    The ids are laid out as in CLIP: bytes, bytes that end a word, merges in the order they were learned, and
    `<|mask|>`, `<|startoftext|>`, `<|endoftext|>` as the three highest. The result is deterministic.

    Args:
      captions: the texts to learn from.
      vocab_size: the maximum number of tokens; there are fewer if the captions have fewer merges.
      path: the file to write.

    Returns:
      The number of tokens.

    Raises:
      UserError: `vocab_size` leaves no room for a merge, or the file cannot be written.
    """
    alphabet = byte_tokens()
    if vocab_size <= len(alphabet) + len(SPECIAL):
        raise UserError(f"vocab_size {vocab_size} is too small; use more than {len(alphabet) + len(SPECIAL)}")
    merges = learn_merges(_count_words(captions), vocab_size - len(alphabet) - len(SPECIAL))
    tokens = [*alphabet, *(left + right for left, right in merges), *SPECIAL]
    backend = byte_pair_backend({token: i for i, token in enumerate(tokens)}, merges, _normalizer())
    text = json.dumps(json.loads(backend.to_str()), ensure_ascii=False, separators=(",", ":"))
    write_text(path, text)
    return len(tokens)


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Learns up to `count` merges from word counts, one after the other.

    Each merge joins the adjacent pair of tokens that occurs most often, and the alphabetically first among
    equals (Sennrich et al., "Neural machine translation of rare words with subword units", 2016). Stops when
    no pair occurs twice. The trainer of `tokenizers` is not used because its merges differ between runs.

    Args:
      words: how often each word occurs, spelled in the letters of `byte_tokens`.
      count: the maximum number of merges.
    """
    spelled: dict[str, tuple[str, ...]] = {word: (*word[:-1], word[-1] + WORD_END) for word in words}
    pairs: Counter[tuple[str, str]] = Counter()
    words_with = defaultdict(set)  # pair -> the words that contain it, or did earlier
    for word, tokens in spelled.items():
        _count_pairs(pairs, words_with, word, tokens, words[word])
    merges = []
    vocabulary = set(byte_tokens())
    while len(merges) < count and pairs:
        best = max(pairs.values())
        if best < 2:
            break
        pair = min(pair for pair, number in pairs.items() if number == best)
        if "".join(pair) not in vocabulary:  # another pair with the same token would need a second id
            vocabulary.add("".join(pair))
            merges.append(pair)
            for word in words_with.pop(pair):
                _count_pairs(pairs, words_with, word, spelled[word], -words[word])
                spelled[word] = _merge(spelled[word], pair)
                _count_pairs(pairs, words_with, word, spelled[word], words[word])
        pairs.pop(pair, None)
    return merges


def _count_pairs(pairs: Counter, words_with: dict, word: str, tokens: tuple[str, ...], number: int) -> None:
    """Adds `number` to the count of each adjacent pair of a word's tokens, in place."""
    for pair in itertools.pairwise(tokens):
        pairs[pair] += number
        if number > 0:
            words_with[pair].add(word)


def _merge(tokens: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged, i = [], 0
    while i < len(tokens):
        if tokens[i : i + 2] == pair:
            merged.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return tuple(merged)


def _count_words(captions: Iterable[str]) -> Counter[str]:
    """Counts the words, spelled in the letters of `byte_tokens`."""
    cut = byte_pair_backend(
        {token: i for i, token in enumerate([*byte_tokens(), *SPECIAL])}, []
    ).pre_tokenizer
    texts = Counter(piece for caption in captions for piece in clean(caption).split())
    words: Counter[str] = Counter()
    for text, number in texts.items():
        for word, _ in cut.pre_tokenize_str(text):
            words[word] += number
    return words


def _normalizer() -> normalizers.Normalizer:
    """Returns the part of `clean` that a `tokenizer.json` can express."""
    quotes = [
        normalizers.Replace(tokenizers.Regex("[“”„‟]"), '"'),
        normalizers.Replace(tokenizers.Regex("[‘’‚‛]"), "'"),
    ]
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    return normalizers.Sequence([normalizers.NFKC(), *quotes, spaces, normalizers.Lowercase()])
