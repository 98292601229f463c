"""Training a small byte-pair vocabulary with the layout of CLIP's."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import normalizers, trainers

from tpr_jax.data.clean_text import clean
from tpr_jax.data.tokenizer import SPECIAL, WORD_END, byte_pair_backend, byte_tokens
from tpr_jax.errors import UserError
from tpr_jax.weights.files import write_whole


def train_tokenizer(captions: Iterable[str], vocab_size: int, path: str | os.PathLike) -> int:
    """Learns merges from `captions` and writes them as the file `path`, a `tokenizer.json`; returns its size.

    The ids are laid out as in CLIP: bytes, bytes that end a word, merges in the order they were learnt, then
    `<|mask|>`, `<|startoftext|>`, `<|endoftext|>` as the three highest. The vocabulary is smaller than
    `vocab_size` where the captions offer fewer merges. The same captions give the same file.

    Raises:
      UserError: `vocab_size` leaves no room for a merge, or the file cannot be written.
    """
    alphabet = byte_tokens()
    if vocab_size <= len(alphabet) + len(SPECIAL):
        raise UserError(f"vocab_size {vocab_size} is too small; use more than {len(alphabet) + len(SPECIAL)}")
    merges = _learn_merges(captions, vocab_size - len(alphabet) - len(SPECIAL), alphabet[:256])
    tokens = [*alphabet, *(left + right for left, right in merges), *SPECIAL]
    backend = byte_pair_backend({token: i for i, token in enumerate(tokens)}, merges, _normalizer())
    text = json.dumps(json.loads(backend.to_str()), ensure_ascii=False, separators=(",", ":"))
    write_whole(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))
    return len(tokens)


def _learn_merges(captions: Iterable[str], count: int, letters: list[str]) -> list[tuple[str, str]]:
    """The `count` most frequent merges of distinct tokens."""
    scratch = byte_pair_backend({token: i for i, token in enumerate([*byte_tokens(), *SPECIAL])}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=512 + count,  # the trainer counts each byte twice too: alone, and as the end of a word
        end_of_word_suffix=WORD_END,
        initial_alphabet=letters,
        show_progress=False,
    )
    scratch.train_from_iterator((clean(caption) for caption in captions), trainer)
    learnt = json.loads(scratch.to_str())["model"]["merges"]
    known, merges = set(byte_tokens()), []
    for left, right in learnt:
        if left + right not in known and len(merges) < count:  # two ways to the same token need one id
            known.add(left + right)
            merges.append((left, right))
    return merges


def _normalizer() -> normalizers.Normalizer:
    """What `clean` does, as far as a `tokenizer.json` can carry it."""
    quotes = [
        normalizers.Replace(tokenizers.Regex("[“”„‟]"), '"'),
        normalizers.Replace(tokenizers.Regex("[‘’‚‛]"), "'"),
    ]
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    return normalizers.Sequence([normalizers.NFKC(), *quotes, spaces, normalizers.Lowercase()])
