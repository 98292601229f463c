"""Finds and loads the CLIP that a config names: a bundled one, a folder, a file or a hub id."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from tpr_jax.data.siglip_tokenizer import siglip_tokenizer
from tpr_jax.data.tokenizer import Tokenizer, clip_tokenizer, folder_tokenizer, has_clip_vocabulary
from tpr_jax.errors import UserError
from tpr_jax.models.config import BUNDLED, CLIP_MINI, ClipConfig
from tpr_jax.utils import hashing
from tpr_jax.weights import hub
from tpr_jax.weights.clip import load_clip, read_sizes, weight_files
from tpr_jax.weights.openai import check_image_size
from tpr_jax.weights.text_positions import with_text_positions

RUN_KEYS = {"dataset", "mix", "method", "losses"}  # in the config.json of a run


def bundled_dir(name: str) -> Path:
    """Returns the folder of a bundled CLIP: a name of `BUNDLED`."""
    return Path(__file__).parent / name.replace("-", "_")


def clip_mini_dir() -> str:
    """Returns the folder of the bundled clip-mini."""
    return str(bundled_dir(CLIP_MINI))


@dataclass(frozen=True)
class Backbone:
    """The CLIP that a method is trained on.

    Attributes:
      name: what `find` takes: a name of `BUNDLED`, an absolute path or a hub id.
      path: the local folder or file.
      revision: of a hub id: the commit, or the requested revision if the commit is unknown.
    """

    name: str
    path: Path
    revision: str | None = None

    @property
    def pinned(self) -> str:
        """The name with its revision, for `find`."""
        return f"{self.name}@{self.revision}" if self.revision else self.name


def find(name: str | os.PathLike) -> Backbone:
    """Finds a backbone by its name and downloads it if necessary.

    Args:
      name: one of `BUNDLED`, a folder, a file, or a hub id `owner/name` with an optional `@revision` (a
        branch, tag or commit). A run's folder stands for the model that the run saved in it.

    Raises:
      UserError: nothing of that name is available.
    """
    if str(name) in BUNDLED:
        return Backbone(str(name), bundled_dir(str(name)))
    location = hub.find(name)
    path = resolve_run_folder(location.path)
    for bundled in BUNDLED:
        if path.resolve() == bundled_dir(bundled).resolve():
            return Backbone(bundled, path)
    if location.hub_id is not None:
        return Backbone(location.hub_id, path, location.revision)
    return Backbone(str(path.resolve()), path)


def resolve_run_folder(folder: Path) -> Path:
    """Returns the `model/` folder of a run's folder; passes any other path through.

    Raises:
      UserError: the run has not saved a model yet.
    """
    if not folder.is_dir():
        return folder
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    is_run = isinstance(config, dict) and config.keys() >= RUN_KEYS and "model_type" not in config
    if not is_run:
        return folder
    if not (folder / "model" / "config.json").is_file():
        raise UserError(
            f"{folder}: is a run without a model/, which is written at the end of training; rerun the same "
            "command to finish it"
        )
    return folder / "model"


def sha256(path: str | os.PathLike) -> str:
    """Computes the SHA-256 of a CLIP's weights files, concatenated in the order of their names.

    Raises:
      UserError: a file is missing or cannot be read.
    """
    return hashing.sha256(weight_files(path))


def read_tokenizer(path: Path, config: ClipConfig, length: int | None = None) -> Tokenizer:
    """Reads the tokenizer.json at `path`, or in this folder, as a text tower of these sizes needs it.

    CLIP's own vocabulary gets CLIP's tokenizer, with the mask token of the authors' code.

    Args:
      path: the file, or its folder.
      config: the sizes.
      length: the number of ids that a text is truncated to; by default the context length. Only a causal
        tower takes rows of this length; for others they are padded to the context length.

    Raises:
      UserError: the file does not exist, cannot be read, or does not fit the kind of model.
    """
    if config.causal:
        tokenizer = folder_tokenizer(path, length or config.context_length)
        return clip_tokenizer(tokenizer.context_length) if has_clip_vocabulary(tokenizer) else tokenizer
    return siglip_tokenizer(path, config.context_length, length)


def backbone_tokenizer(path: Path, config: ClipConfig, length: int | None = None) -> Tokenizer | None:
    """Returns the tokenizer for training with a backbone, or None if it has none.

    Without a file, a vocabulary of the size of CLIP's own gets CLIP's tokenizer.
    """
    if (path / "tokenizer.json").is_file():
        return read_tokenizer(path, config, length)
    own = clip_tokenizer(length or config.context_length)
    return own if config.causal and config.vocab_size == own.vocab_size else None


def caption_length(text_length: int, config: ClipConfig, name: str) -> int:
    """Returns the number of tokens of a caption: `text_length`, or the context length if that is 0.

    Raises:
      UserError: `text_length` exceeds the context length of the backbone called `name`.
    """
    if text_length > config.context_length:
        raise UserError(
            f"config.text_length={text_length} is above the {config.context_length} tokens that the text "
            f"tower of {name} takes: choose at most {config.context_length}, 0 for all, or "
            "config.stretch_text=True for longer captions"
        )
    return text_length or config.context_length


def row_length(text_length: int, config: ClipConfig, name: str) -> int:
    """Returns the number of ids of a caption with its padding: the full context unless attention is causal.

    Raises:
      UserError: as `caption_length`.
    """
    length = caption_length(text_length, config, name)
    return length if config.causal else config.context_length


def load(
    name: str | os.PathLike | Backbone,
    image_size: tuple[int, int],
    text_length: int = 0,
    with_weights: bool = True,
    act: str | None = None,
    heads: tuple[int, int] | None = None,
    *,
    stretch_text: bool = False,
    image_mean: tuple[float, float, float] | None = None,
    image_std: tuple[float, float, float] | None = None,
) -> tuple[ClipConfig, dict | None, Tokenizer]:
    """Loads a backbone for training.

    Args:
      name: as for `find`.
      image_size: (height, width) in pixels.
      text_length: tokens per caption; 0 for the context length of the text tower.
      with_weights: False to train from scratch: only config.json, image settings and tokenizer are read.
      act: as for `load_clip`.
      heads: as for `load_clip`.
      stretch_text: whether a `text_length` above the context length stretches the text positions.
      image_mean: as for `load_clip`.
      image_std: as for `load_clip`.

    Returns:
      The sizes, the weights (or None) and the tokenizer.

    Raises:
      UserError: the backbone cannot be read, or does not fit `image_size` or `text_length`.
    """
    path = (name if isinstance(name, Backbone) else find(name)).path
    if with_weights:
        config, params = load_clip(path, image_size, act, heads, image_mean=image_mean, image_std=image_std)
    else:
        sizes = read_sizes(path, act, heads, image_mean=image_mean, image_std=image_std)
        config, params = replace(sizes, image_size=image_size), None
        check_image_size(config)
    if stretch_text:
        config = replace(config, context_length=max(text_length, config.context_length))
        params = None if params is None else with_text_positions(params, config)
    length = caption_length(text_length, config, str(name))
    return config, params, backbone_tokenizer(path, config, length) or read_tokenizer(path, config, length)
