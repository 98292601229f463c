"""The CLIP a config names: the bundled clip-mini, a folder, a file or a hub id, with its tokenizer."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tpr_jax.data.tokenizer import Tokenizer, clip_tokenizer, folder_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models.config import CLIP_MINI, ClipConfig
from tpr_jax.utils import hashing
from tpr_jax.weights import hub
from tpr_jax.weights.clip import load_clip, read_sizes, weight_files
from tpr_jax.weights.openai import check_image_size

RUN_KEYS = {"dataset", "mix", "method", "losses"}  # of the config.json that a run keeps


def clip_mini_dir() -> str:
    """The folder of the bundled clip-mini."""
    return str(Path(__file__).parent / "clip_mini")


@dataclass(frozen=True)
class Backbone:
    """A CLIP that parts were trained on, by the name under which it is found again, and where it lies now.

    `revision` is the commit of a hub id, or where that is unknown the revision that was asked for.
    """

    name: str
    path: Path
    revision: str | None = None

    @property
    def pinned(self) -> str:
        """The name with its revision, as `find` takes it."""
        return f"{self.name}@{self.revision}" if self.revision else self.name


def find(name: str | os.PathLike) -> Backbone:
    """The bundled clip-mini, a folder or file (its name is then the whole path), or a hub id.

    `owner/name@revision` is that branch, tag or commit of a hub id. The folder of a run stands for the model
    that the run left in it.

    Raises:
      UserError: nothing of that name can be reached.
    """
    mini = Path(clip_mini_dir())
    if str(name) == CLIP_MINI:
        return Backbone(CLIP_MINI, mini)
    found = hub.find(name)
    path = resolve_run_folder(found.path)
    if path.resolve() == mini.resolve():
        return Backbone(CLIP_MINI, path)
    if found.hub_id is not None:
        return Backbone(found.hub_id, path, found.revision)
    return Backbone(str(path.resolve()), path)


def resolve_run_folder(folder: Path) -> Path:
    """Returns the `model/` of a run's folder, and any other path as it is.

    Raises:
      UserError: it is the folder of a run that has not left a model yet.
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
    """Of a CLIP's weights file; of several, of their contents one after the other, by their names.

    Raises:
      UserError: there is no such file, or it cannot be read.
    """
    return hashing.sha256(weight_files(path))


def backbone_tokenizer(path: Path, config: ClipConfig, length: int | None = None) -> Tokenizer | None:
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
    name: str | os.PathLike | Backbone,
    image_size: tuple[int, int],
    text_length: int = 0,
    with_weights: bool = True,
    act: str | None = None,
    heads: tuple[int, int] | None = None,
) -> tuple[ClipConfig, dict | None, Callable]:
    """(sizes, weights, tokenizer) of a backbone at `image_size` (height, width).

    `text_length` above 0 makes the tokenizer cut captions shorter than the text tower would take. Without
    weights, to train one from nothing, only the folder's config.json, image settings and tokenizer are read.
    `act` and `heads` are as for `load_clip`.

    CLIP's own vocabulary with the mask token as the reference has it goes with OpenAI's CLIP; a folder with
    another vocabulary brings its tokenizer.

    Raises:
      UserError: the backbone cannot be read, or does not fit `image_size` or `text_length`.
    """
    path = (name if isinstance(name, Backbone) else find(name)).path
    if with_weights:
        config, params = load_clip(path, image_size, act, heads)
    else:
        config, params = replace(read_sizes(path, act, heads), image_size=image_size), None
        check_image_size(config)
    length = caption_length(text_length, config, name)
    return config, params, backbone_tokenizer(path, config, length) or folder_tokenizer(path, length)
