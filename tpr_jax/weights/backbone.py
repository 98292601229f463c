"""The CLIP a config names: the bundled clip-mini, a folder, a file or a hub id, with its tokenizer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tpr_jax.data.tokenizer import clip_tokenizer, folder_tokenizer
from tpr_jax.models.config import CLIP_MINI, ClipConfig
from tpr_jax.weights.clip import find_clip, load_clip, read_sizes
from tpr_jax.weights.openai import check_image_size


def clip_mini_dir() -> str:
    """The folder of the bundled clip-mini."""
    return str(Path(__file__).parent / "clip_mini")


def load(
    name: str, image_size: tuple[int, int], text_length: int = 0, with_weights: bool = True
) -> tuple[ClipConfig, dict | None, Callable]:
    """(sizes, weights, tokenizer) of a backbone at `image_size` (height, width).

    `text_length` above 0 makes the tokenizer cut captions shorter than the text tower would take. Without
    weights, to train one from nothing, only the folder's config.json and tokenizer are read.

    CLIP's own vocabulary with the mask token as the reference has it goes with OpenAI's CLIP; a folder with
    another vocabulary brings its tokenizer.
    """
    path = clip_mini_dir() if name == CLIP_MINI else find_clip(name)
    if with_weights:
        config, params = load_clip(path, image_size)
    else:
        config, params = replace(read_sizes(path), image_size=image_size), None
        check_image_size(config)
    length = min(text_length or config.context_length, config.context_length)
    own = clip_tokenizer(length)
    return config, params, own if config.vocab_size == own.vocab_size else folder_tokenizer(str(path), length)
