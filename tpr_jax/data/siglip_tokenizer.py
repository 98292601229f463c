"""Loads the tokenizers of SigLIP and SigLIP 2: lower-case text, end of text, then padding."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import normalizers, processors

from tpr_jax.data.tokenizer import Tokenizer, find_mask, no_split, read_backend
from tpr_jax.errors import UserError

SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")  # the later one takes precedence
ENDS = ("</s>", "<eos>")  # SigLIP's and SigLIP 2's end of text, if no file names it


class Around(NamedTuple):
    """The ids that a post-processor puts before and after a text."""

    before: list[int]
    after: list[int]


def siglip_tokenizer(
    path: str | os.PathLike, context_length: int, max_length: int | None = None
) -> Tokenizer:
    """Loads the `tokenizer.json` of a SigLIP, whose rows are padded to the full context.

    The tokens added around a text, and the padding, come from tokenizer.json, tokenizer_config.json and
    special_tokens_map.json, as in transformers. Text is made lower case, as in the training of
    SigLIP and SigLIP 2, even if the file's own normalizer does not do so.

    Args:
      path: the folder of the file, or the file itself.
      context_length: the text tower's.
      max_length: the number of ids that a text is truncated to, without padding; by default the context.

    Raises:
      UserError: a file does not exist or cannot be read, or the padding is not defined.
    """
    file, backend = read_backend(path)
    settings: dict = {}
    for name in SETTINGS:
        settings |= _read_settings(file.parent / name)
    padding = (backend.padding or {}).get("pad_id")
    backend.no_truncation()
    backend.no_padding()
    sot_id, eot_id = _added(backend, settings)
    backend.post_processor = template(backend, sot_id, eot_id)
    if padding is None:
        padding = _pad_id(backend, settings, file.parent)
    if padding is None:
        raise UserError(
            f"{file}: does not define the padding; use the tokenizer.json that belongs to the SigLIP"
        )
    backend.normalizer = lower_case(backend.normalizer)
    return Tokenizer(
        backend=backend,
        split=no_split,
        vocab_size=backend.get_vocab_size(with_added_tokens=True),
        mask_id=find_mask(backend),
        sot_id=sot_id,
        eot_id=eot_id,
        context_length=context_length,
        pad_id=padding,
        max_length=max_length,
    )


def lower_case(normalizer: normalizers.Normalizer | None) -> normalizers.Normalizer:
    """Returns a normalizer that also makes text lower case."""
    if normalizer is None:
        return normalizers.Lowercase()
    if normalizer.normalize_str("A") == normalizer.normalize_str("a"):
        return normalizer
    return normalizers.Sequence([normalizers.Lowercase(), normalizer])


def template(
    backend: tokenizers.Tokenizer, sot_id: int | None, eot_id: int | None
) -> processors.TemplateProcessing:
    """Returns the post-processor that puts these ids, where they are not None, around a text."""
    before, after = ([] if i is None else [(backend.id_to_token(i) or "", i)] for i in (sot_id, eot_id))
    names = [*(name for name, _ in before), "$A", *(name for name, _ in after)]
    return processors.TemplateProcessing(single=" ".join(names), special_tokens=[*before, *after])


def _added(backend: tokenizers.Tokenizer, settings: Mapping) -> tuple[int | None, int | None]:
    """Returns the ids before and after each text, each None if there is none."""
    around = _around(backend)
    before, after = (ids[-1] if ids else None for ids in (around.before, around.after))
    flags = [settings.get(f"add_{name}_token") for name in ("bos", "eos")]
    named = [_token_id(backend, settings.get(f"{name}_token")) for name in ("bos", "eos")]
    if any(isinstance(flag, bool) for flag in flags):
        return named[0] if flags[0] else None, named[1] if flags[1] else None
    if backend.post_processor is None:  # SigLIP was trained with an end-of-text token
        ends = [named[1], *(backend.token_to_id(token) for token in ENDS)]
        after = next((i for i in ends if i is not None), None)
    return before, after


def _around(backend: tokenizers.Tokenizer) -> Around:
    text = "a"
    inner, outer = (backend.encode(text, add_special_tokens=added).ids for added in (False, True))
    extra = len(outer) - len(inner)
    first = next((i for i in range(extra + 1) if outer[i : i + len(inner)] == inner), 0)
    return Around(outer[:first], outer[first + len(inner) :])


def _pad_id(backend: tokenizers.Tokenizer, settings: Mapping, folder: Path) -> int | None:
    """Returns the padding's id from the files beside tokenizer.json, or that of SigLIP or SigLIP 2."""
    if (named := _token_id(backend, settings.get("pad_token"))) is not None:
        return named
    text = _read_settings(folder / "config.json").get("text_config")
    if isinstance(text, Mapping) and type(pad := text.get("pad_token_id")) is int:
        return pad
    tokens = ("</s>",) if backend.token_to_id("</s>") is not None else ("<pad>",)
    return next((backend.token_to_id(token) for token in tokens), None)


def _read_settings(path: Path) -> dict:
    """Returns the contents of a file of settings; {} if there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _token_id(backend: tokenizers.Tokenizer, token: object) -> int | None:
    """Returns the id of a token as the settings name it: its text, or a dict with its `content`."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return backend.token_to_id(text) if isinstance(text, str) else None
