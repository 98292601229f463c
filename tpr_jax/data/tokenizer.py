"""Captions to token ids: CLIP's own vocabulary, or that of a folder's `tokenizer.json`.

Every tokenizer here gives rows of `context_length` ids: start-of-text, the caption, end-of-text, zeros. Text
that is too long is cut with end-of-text last. Any string is accepted.
"""

import gzip
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from tpr_jax.data.clean_text import clean, replace_surrogates
from tpr_jax.errors import UserError

START, END, MASK = "<|startoftext|>", "<|endoftext|>", "<|mask|>"
SPECIAL = (MASK, START, END)  # in the order of their ids, the highest there are
WORD_END = "</w>"
# English endings, words, single digits, runs of signs.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MERGES = Path(__file__).parent / "vocab" / "clip_merges.txt.gz"


@dataclass(frozen=True)
class Tokenizer:
    """A callable, list of n texts -> int32 `[n, context_length]`."""

    backend: tokenizers.Tokenizer
    pieces: Callable[[str], list[str]]  # tidies a text and cuts it where no token can reach across
    vocab_size: int
    mask_id: int
    sot_id: int
    eot_id: int
    context_length: int

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "n context_length"]:
        """Ids of each text; zeros after end-of-text.

        Raises:
          TypeError: `texts` is a single string, or one of them is not a string.
        """
        if isinstance(texts, str):
            raise TypeError("give a list of texts, not one string")
        texts = [self.pieces(text) for text in texts]
        # Captions share their words: each is encoded once, which is five times faster than whole captions.
        distinct = list(dict.fromkeys(piece for text in texts for piece in text))
        encoded = self.backend.encode_batch_fast(distinct, add_special_tokens=False)
        known = {piece: encoding.ids for piece, encoding in zip(distinct, encoded, strict=True)}
        rows = np.zeros((len(texts), self.context_length), np.int32)
        for row, text in zip(rows, texts, strict=True):
            caption = [i for piece in text for i in known[piece]]
            ids = [self.sot_id, *caption[: self.context_length - 2], self.eot_id]
            row[: len(ids)] = ids
        return rows


def clip_tokenizer(context_length: int = 77) -> Tokenizer:
    """CLIP's own byte-pair encoding, its last merge given up for a mask token.

    49,408 ids: `<|mask|>` 49405, start 49406, end 49407, as the released code of IRRA and its successors has
    it. The word of that merge is spelled by smaller pieces. A caption may hold the special tokens themselves.
    """
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines]
    tokens = [*byte_tokens(), *(left + right for left, right in merges), *SPECIAL]
    backend = byte_pair_backend({token: i for i, token in enumerate(tokens)}, merges)
    return _tokenizer(backend, _clean_words, context_length)


def folder_tokenizer(path: str | os.PathLike, context_length: int | None = None) -> Tokenizer:
    """The tokenizer of a folder in Hugging Face's format, from its `tokenizer.json` (or of that file).

    `context_length` defaults to the text tower's, as the folder's `config.json` tells, or 77. A vocabulary
    without `<|mask|>` lends the id below start-of-text, its last merge, to the mask, as CLIP's users do.

    Raises:
      UserError: there is no such file, it cannot be read, or its start and end of text cannot be told.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file; texts need the tokenizer.json that belongs to the weights")
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{file}: not a tokenizer ({error}); restore the original file") from error
    backend.no_truncation()
    backend.no_padding()
    around = backend.encode("").ids  # what its post-processor puts around a text
    names = [backend.token_to_id(START), backend.token_to_id(END)]
    if len(around) != 2 and None in names:
        raise UserError(
            f"{file}: has no {START} and {END}, so it is not of a CLIP; use CLIP's tokenizer.json"
        )
    start_end = around if len(around) == 2 else names
    length = context_length or _context_length(file.parent)
    return _tokenizer(backend, _words if _splits_at_spaces(backend) else _whole, length, *start_end)


def byte_tokens() -> list[str]:
    """The first 512 tokens: each byte as one printable character, then each as the end of a word.

    Bytes that Latin-1 prints stand for themselves and come first; the others follow as U+0100, U+0101, ...
    (the alphabet of GPT-2's encoding, which `tokenizers` calls byte-level).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(byte) for byte in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]
    return letters + [letter + WORD_END for letter in letters]


def byte_pair_backend(
    vocab: dict[str, int], merges: list[tuple[str, str]], normalizer: normalizers.Normalizer | None = None
) -> tokenizers.Tokenizer:
    """CLIP's kind of encoder in the `tokenizers` library, putting start and end of text around each text."""
    model = models.BPE(vocab, merges, end_of_word_suffix=WORD_END, continuing_subword_prefix="")
    backend = tokenizers.Tokenizer(model)
    backend.add_special_tokens([AddedToken(token, normalized=True, special=True) for token in SPECIAL])
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocab[START]), (END, vocab[END])]
    )
    return backend


def _tokenizer(
    backend: tokenizers.Tokenizer,
    pieces: Callable[[str], list[str]],
    context_length: int,
    sot_id: int | None = None,
    eot_id: int | None = None,
) -> Tokenizer:
    sot_id = backend.token_to_id(START) if sot_id is None else sot_id
    eot_id = backend.token_to_id(END) if eot_id is None else eot_id
    mask_id = backend.token_to_id(MASK)
    return Tokenizer(
        backend=backend,
        pieces=pieces,
        vocab_size=backend.get_vocab_size(with_added_tokens=True),
        mask_id=sot_id - 1 if mask_id is None else mask_id,
        sot_id=sot_id,
        eot_id=eot_id,
        context_length=context_length,
    )


def _splits_at_spaces(backend: tokenizers.Tokenizer) -> bool:
    """Whether words get the same tokens alone as within a text: so in CLIP, not in sentence-piece models."""
    together = backend.encode("a red  coat.", add_special_tokens=False).ids
    alone = [backend.encode(word, add_special_tokens=False).ids for word in ("a", "red", "coat.")]
    return together == [i for ids in alone for i in ids]


def _clean_words(text: str) -> list[str]:
    return clean(text).split()


def _words(text: str) -> list[str]:
    return re.findall(r"[^ \t\r\n]+", replace_surrogates(text))


def _whole(text: str) -> list[str]:
    return [replace_surrogates(text)]


def _context_length(folder: Path) -> int:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return int(config["text_config"]["max_position_embeddings"])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # a file by itself, or a config that leaves it to the default
        return 77
