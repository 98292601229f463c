"""The CLIP a config names: the bundled clip-mini, a folder, a file or a hub id, with its tokenizer."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tpr_jax import hashing
from tpr_jax.data.tokenizer import Tokenizer, clip_tokenizer, folder_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models.config import CLIP_MINI, ClipConfig
from tpr_jax.weights.clip import find_clip, load_clip, read_sizes, weight_files
from tpr_jax.weights.openai import check_image_size


def clip_mini_dir() -> str:
    """The folder of the bundled clip-mini."""
    return str(Path(__file__).parent / "clip_mini")


@dataclass(frozen=True)
class Backbone:
    """A CLIP that parts were trained on, by the name under which it is found again, and where it lies now."""

    name: str
    path: Path


def find(name: str | os.PathLike) -> Backbone:
    """The bundled clip-mini, a folder or file (its name is then the whole path), or a hub id.

    Raises:
      UserError: nothing of that name can be reached.
    """
    mini = Path(clip_mini_dir())
    path = mini if str(name) == CLIP_MINI else find_clip(name)
    if path.resolve() == mini.resolve():
        return Backbone(CLIP_MINI, path)
    return Backbone(str(path.resolve()) if Path(name).exists() else str(name), path)


def sha256(path: str | os.PathLike) -> str:
    """Of a CLIP's weights file; of several, of their contents one after the other, by their names.

    Raises:
      UserError: there is no such file, or it cannot be read.
    """
    return hashing.sha256(weight_files(path))


def tokenizer_of(path: Path, config: ClipConfig, length: int | None = None) -> Tokenizer | None:
    """The tokenizer that training takes: CLIP's own with the mask token as the reference has it where the
    vocabulary has its size, else that of the folder, else none."""
    length = length or config.context_length
    own = clip_tokenizer(length)
    if config.vocab_size == own.vocab_size:
        return own
    return folder_tokenizer(path, length) if (path / "tokenizer.json").is_file() else None


def caption_length(text_length: int, config: ClipConfig, name: str) -> int:
    """Returns how many ids a caption has: `text_length`, or where that is 0 all that the text tower takes.

    Raises:
      UserError: the text tower of the backbone called `name` takes fewer.
    """
    if text_length > config.context_length:
        raise UserError(
            f"config.text_length={text_length} is above the {config.context_length} tokens that the text "
            f"tower of {name} takes: choose at most {config.context_length}, or 0 for all"
        )
    return text_length or config.context_length


def load(
    name: str, image_size: tuple[int, int], text_length: int = 0, with_weights: bool = True
) -> tuple[ClipConfig, dict | None, Callable]:
    """(sizes, weights, tokenizer) of a backbone at `image_size` (height, width).

    `text_length` above 0 makes the tokenizer cut captions shorter than the text tower would take. Without
    weights, to train one from nothing, only the folder's config.json and tokenizer are read.

    CLIP's own vocabulary with the mask token as the reference has it goes with OpenAI's CLIP; a folder with
    another vocabulary brings its tokenizer.

    Raises:
      UserError: the backbone cannot be read, or does not fit `image_size` or `text_length`.
    """
    path = find(name).path
    if with_weights:
        config, params = load_clip(path, image_size)
    else:
        config, params = replace(read_sizes(path), image_size=image_size), None
        check_image_size(config)
    length = caption_length(text_length, config, name)
    return config, params, tokenizer_of(path, config, length) or folder_tokenizer(path, length)
