"""Tokenizes captions with CLIP's own vocabulary, or with that of a folder's `tokenizer.json`.

Every tokenizer returns rows of `context_length` ids: start of text, the caption, end of text, padding. A text
that is too long is truncated, with end of text last. Any string is accepted. CLIP's are padded with zeros;
`siglip_tokenizer` has those without start-of-text.
"""

import functools
import gzip
import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Int32
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from tpr_jax.data.clean_text import clean, repair, replace_surrogates
from tpr_jax.errors import UserError

START, END, MASK = "<|startoftext|>", "<|endoftext|>", "<|mask|>"
MASKS = (MASK, "<mask>", "[MASK]")
SPECIAL = (MASK, START, END)  # in the order of their ids, which are the highest ones
CLIP_VOCAB_SIZE = 49_408
WORD_END = "</w>"
# English contractions, words, single digits, runs of other characters.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# The part of CLIP's text cleanup that a tokenizers file can hold: capitals and curly quotes.
CLEANUP = normalizers.Sequence(
    [
        normalizers.NFC(),
        normalizers.Replace(tokenizers.Regex("[\u02bc\u2018\u2019\u201a\u201b]"), "'"),
        normalizers.Replace(tokenizers.Regex("[\u201c\u201d\u201e\u201f]"), '"'),
        normalizers.Lowercase(),
    ]
)
MERGES = Path(__file__).parent / "vocab" / "clip_merges.txt.gz"


@dataclass(frozen=True)
class Tokenizer:
    """Maps a list of n texts to int32 `[n, context_length]`.

    Attributes:
      backend: The tokenizer of the library, which encodes pieces of text.
      split: Cleans a text and splits it where no token crosses.
      vocab_size: The number of ids.
      mask_id: The id that replaces masked words; None if the vocabulary has none.
      sot_id: The id before each text; None for no such id.
      eot_id: The id after each text; None for no such id.
      context_length: The number of ids of a row.
      pad_id: The id that fills a row.
      max_length: The number of ids, without padding, that a text is truncated to; None is `context_length`.
    """

    backend: tokenizers.Tokenizer
    split: Callable[[str], list[str]]
    vocab_size: int
    mask_id: int | None
    sot_id: int | None
    eot_id: int | None
    context_length: int
    pad_id: int = 0
    max_length: int | None = None

    @property
    def length(self) -> int:
        """The number of ids that a text is truncated to."""
        return self.max_length or self.context_length

    @property
    def words(self) -> range:
        """The ids of words: the longest run of ids without those that have a meaning of their own."""
        special = {self.pad_id, self.mask_id, self.sot_id, self.eot_id} - {None}
        bounds = sorted({-1, *(i for i in special if i is not None), self.vocab_size})
        return max((range(a + 1, b) for a, b in itertools.pairwise(bounds)), key=len)

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "n context_length"]:
        """Returns the ids of each text, padded after end of text.

        Raises:
          TypeError: `texts` is a single string, or one of them is not a string.
        """
        before, after = ([] if i is None else [i] for i in (self.sot_id, self.eot_id))
        captions = self._encode(texts)
        room = self.length - len(before) - len(after)
        rows = np.full((len(texts), self.context_length), self.pad_id, np.int32)
        for row, caption in zip(rows, captions, strict=True):
            ids = [*before, *caption[:room], *after]
            row[: len(ids)] = ids
        return rows

    def words_cut(self, text: str, length: int | None = None) -> int:
        """Returns how many ids of a text's words fit if some do not, and 0 if all of them fit.

        Args:
          text: the text.
          length: the number of ids that it is truncated to; by default that of `__call__`.
        """
        room = (length or self.length) - sum(i is not None for i in (self.sot_id, self.eot_id))
        return room if len(self._encode([text])[0]) > room else 0

    def is_one_id(self, word: str) -> bool:
        """Returns whether a word is in the vocabulary as a whole."""
        return len(self._encode([word])[0]) == 1

    def file_backend(self) -> tokenizers.Tokenizer:
        """Returns a copy of the backend for a file, whose readers do not clean texts themselves."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        if self.split is _split_cleaned:
            backend.normalizer = CLEANUP
        return backend

    def save(self, path: str | os.PathLike) -> None:
        """Writes a tokenizer.json from which the same tokenizer can be loaded."""
        backend = self.file_backend()
        if self.sot_id is None:  # the padding is not CLIP's
            token = backend.id_to_token(self.pad_id) or ""
            backend.enable_padding(length=self.context_length, pad_id=self.pad_id, pad_token=token)
        backend.save(str(path))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of the words of each text."""
        if isinstance(texts, str):
            raise TypeError("give a list of texts, not one string")
        split_texts = [self.split(text) for text in texts]
        # Encodes each distinct word once, which is five times faster than encoding whole captions.
        distinct = list(dict.fromkeys(piece for pieces in split_texts for piece in pieces))
        encoded = self.backend.encode_batch_fast(distinct, add_special_tokens=False)
        piece_ids = {piece: encoding.ids for piece, encoding in zip(distinct, encoded, strict=True)}
        return [[i for piece in pieces for i in piece_ids[piece]] for pieces in split_texts]


def clip_tokenizer(context_length: int = 77) -> Tokenizer:
    """Loads CLIP's own byte-pair encoding, with its last merge replaced by a mask token.

    It has 49,408 ids: `<|mask|>` is 49405, start 49406, end 49407, as in the released code of IRRA and its
    successors. The word of the replaced merge is encoded by smaller pieces. A caption may contain the special
    tokens themselves.
    """
    _, start, end = range(CLIP_VOCAB_SIZE - len(SPECIAL), CLIP_VOCAB_SIZE)
    return _make_tokenizer(_clip_backend(), _split_cleaned, context_length, start, end)


@functools.cache  # takes a tenth of a second; nobody changes it
def _clip_backend() -> tokenizers.Tokenizer:
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    merges = [(left, right) for left, right in (line.split(" ") for line in lines)]
    tokens = [*byte_tokens(), *(left + right for left, right in merges), *SPECIAL]
    return byte_pair_backend({token: i for i, token in enumerate(tokens)}, merges)


def folder_tokenizer(path: str | os.PathLike, context_length: int | None = None) -> Tokenizer:
    """Loads a `tokenizer.json` in Hugging Face's format.

    Texts are repaired as CLIP's are, and made lower case if the file says so. A text tower with CLIP's own
    vocabulary should get `clip_tokenizer`; see `has_clip_vocabulary`.

    In a vocabulary without a mask token, the mask takes the id below start-of-text, that of its last merge,
    as is common with CLIP. Where this is no word, there is no mask.

    Args:
      path: the folder of the file, or the file itself.
      context_length: by default the text tower's, from the folder's `config.json`, or else 77.

    Raises:
      UserError: the file does not exist, cannot be read, or does not define start and end of text.
    """
    file, backend = read_backend(path)
    backend.no_truncation()
    backend.no_padding()
    added = backend.encode("").ids  # the ids that its post-processor adds around a text
    named = backend.token_to_id(START), backend.token_to_id(END)
    sot_id, eot_id = added if len(added) == 2 else named
    if sot_id is None or eot_id is None:
        raise UserError(
            f"{file}: has no {START} and {END}, so it does not belong to a CLIP; use CLIP's tokenizer.json"
        )
    length = context_length or _read_context_length(file.parent)
    split = _split_repaired if _splits_at_spaces(backend) else no_split
    return _make_tokenizer(backend, split, length, sot_id, eot_id)


def read_backend(path: str | os.PathLike) -> tuple[Path, tokenizers.Tokenizer]:
    """Reads a `tokenizer.json`; returns its path and the library's tokenizer.

    Raises:
      UserError: the file does not exist or cannot be read.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file; texts need the tokenizer.json that belongs to the weights")
    try:
        return file, tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{file}: not a tokenizer ({error}); restore the original file") from error


def byte_tokens() -> list[str]:
    """Returns the first 512 tokens: each byte as one printable character, then each as the end of a word.

    The printable bytes of Latin-1 represent themselves and come first; the others follow as U+0100, U+0101,
    ... (the alphabet of GPT-2's encoding, which `tokenizers` calls byte-level).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(byte) for byte in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]
    return letters + [letter + WORD_END for letter in letters]


def byte_pair_backend(
    vocab: dict[str, int], merges: list[tuple[str, str]], normalizer: normalizers.Normalizer | None = None
) -> tokenizers.Tokenizer:
    """Builds CLIP's byte-pair encoder in the `tokenizers` library, which adds start and end of text."""
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


def _make_tokenizer(
    backend: tokenizers.Tokenizer,
    split: Callable[[str], list[str]],
    context_length: int,
    sot_id: int,
    eot_id: int,
) -> Tokenizer:
    mask_id = find_mask(backend)
    if mask_id is None and sot_id > 1 and sot_id - 1 != eot_id:
        mask_id = sot_id - 1
    return Tokenizer(
        backend=backend,
        split=split,
        vocab_size=backend.get_vocab_size(with_added_tokens=True),
        mask_id=mask_id,
        sot_id=sot_id,
        eot_id=eot_id,
        context_length=context_length,
    )


def has_clip_vocabulary(tokenizer: Tokenizer) -> bool:
    """Returns whether a tokenizer has the words of CLIP's own, whatever its mask and normalizer are.

    The last merge is not compared: Hugging Face's files have a word there, and `clip_tokenizer` its mask.
    """
    if tokenizer.vocab_size != CLIP_VOCAB_SIZE:
        return False
    own = clip_tokenizer()
    limit = CLIP_VOCAB_SIZE - len(SPECIAL)
    vocabularies = (one.backend.get_vocab(with_added_tokens=True) for one in (tokenizer, own))
    words, own_words = ({word: i for word, i in vocab.items() if i < limit} for vocab in vocabularies)
    return words == own_words and (tokenizer.sot_id, tokenizer.eot_id) == (own.sot_id, own.eot_id)


def find_mask(backend: tokenizers.Tokenizer) -> int | None:
    """Returns the id of a vocabulary's mask token, or None."""
    ids = (backend.token_to_id(token) for token in MASKS)
    return next((i for i in ids if i is not None), None)


def _splits_at_spaces(backend: tokenizers.Tokenizer) -> bool:
    """Returns whether words have the same tokens alone and in a text, unlike in SentencePiece."""
    together = backend.encode("a red  coat.", add_special_tokens=False).ids
    alone = [backend.encode(word, add_special_tokens=False).ids for word in ("a", "red", "coat.")]
    return together == [i for ids in alone for i in ids]


def _split_cleaned(text: str) -> list[str]:
    return clean(text).split()


def _split_repaired(text: str) -> list[str]:
    return repair(text).split()


def no_split(text: str) -> list[str]:
    """Returns the text as one piece."""
    return [replace_surrogates(text)]


def _read_context_length(folder: Path) -> int:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return int(config["text_config"]["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):  # there is no config, or it relies on the default
        return 77
