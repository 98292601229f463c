"""Loads a CLIP or SigLIP from a folder, a file or the Hugging Face hub, and saves one; see also `name_maps`.

config, params = load_clip("openai/clip-vit-base-patch16", image_size=(384, 128))
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.utils.files import write_json
from tpr_jax.utils.notices import print_once
from tpr_jax.weights import folder_format, hub, open_clip, open_clip_config, save_folder, siglip
from tpr_jax.weights.bare_file import load_bare_file
from tpr_jax.weights.files import read_state, write_state
from tpr_jax.weights.hugging_face import from_hugging_face, read_config, to_hugging_face
from tpr_jax.weights.json_files import read_json
from tpr_jax.weights.name_maps import Params
from tpr_jax.weights.openai import check_heads, from_openai, to_openai
from tpr_jax.weights.preprocessor import (
    CLIP_SETTINGS,
    ImageSettings,
    preprocessor_config,
    read_image_settings,
)
from tpr_jax.weights.state_dict import unwrap_names

TEXT_LENGTH = "text_length"  # key of config.json

__all__ = [
    "find_clip",
    "from_hugging_face",
    "from_openai",
    "read_image_settings",
    "load_clip",
    "read_sizes",
    "save_clip",
    "to_hugging_face",
    "to_openai",
    "weight_files",
]


def load_clip(
    path_or_hub_id: str | os.PathLike,
    image_size: tuple[int, int] | None = None,
    act: str | None = None,
    heads: tuple[int, int] | None = None,
    notices: bool = True,
    *,
    image_mean: tuple[float, float, float] | None = None,
    image_std: tuple[float, float, float] | None = None,
) -> tuple[ClipConfig, Params]:
    """Loads the sizes and float32 weights of a CLIP; `name_maps` describes the tree of weights.

    Args:
      path_or_hub_id: a folder in Hugging Face's format, the id of one on the hub, or a file of weights under
        OpenAI's names.
      image_size: (height, width) in pixels, to which the position embedding is resized; by default that of
        the folder's image settings, or of its config.
      act: "quick_gelu" or "gelu", overrides the folder's. A file may need it and `heads` (see `bare_file`).
      heads: numbers of heads of the vision and text towers, overrides the folder's.
      notices: whether to print which of the folder's image settings are not followed.
      image_mean: the mean of the red, green and blue channels, for pixels in [0, 1]; overrides the folder's.
        A file records none, and CLIP's is the default.
      image_std: their standard deviation, by the same rule.

    Raises:
      UserError: there is no CLIP, a weight is missing, unknown or misshapen, a file is damaged, `image_size`
        is smaller than a patch, or a file needs `act` and `heads`.
    """
    path = find_clip(path_or_hub_id)
    if path.is_file():
        bare_config, params = load_bare_file(path, image_size, act, heads)
        return _with_constants(bare_config, image_mean, image_std), params
    config = _read_config(path)
    settings = _read_image_settings(path, config)
    if notices and settings.ignored:
        print_once(settings.ignored)
    state = unwrap_names(_read_weights(path), str(path))
    if folder_format.is_open_clip(path):
        convert = open_clip.from_open_clip
    else:
        convert = siglip.from_siglip if siglip.is_siglip(config) else from_hugging_face
    own_config, params = convert(state, config, image_size or settings.image_size, where=str(path))
    own_config = _apply_overrides(own_config, settings, act, heads, path)
    return _with_constants(own_config, image_mean, image_std), params


def read_sizes(
    folder: str | os.PathLike,
    act: str | None = None,
    heads: tuple[int, int] | None = None,
    *,
    image_mean: tuple[float, float, float] | None = None,
    image_std: tuple[float, float, float] | None = None,
) -> ClipConfig:
    """Reads the sizes of a folder's config.json and its image mean and std, but no weights."""
    path = Path(folder)
    if path.is_file():
        raise UserError(
            f"{path}: is a file; to know the sizes without the weights, give a folder with config.json"
        )
    config = _read_config(path)
    if folder_format.is_open_clip(path):
        sizes = open_clip_config.read_config(config, str(path / open_clip_config.CONFIG))
    else:
        read = siglip.read_config if siglip.is_siglip(config) else read_config
        sizes = read(config, str(path / "config.json"))
    sizes = _apply_overrides(sizes, _read_image_settings(path, config), act, heads, path)
    return _with_constants(sizes, image_mean, image_std)


def _with_constants(
    config: ClipConfig,
    image_mean: tuple[float, float, float] | None,
    image_std: tuple[float, float, float] | None,
) -> ClipConfig:
    """Returns the config with another image mean and std, unless they are None."""
    constants: dict[str, Any] = {"image_mean": image_mean, "image_std": image_std}
    return dataclasses.replace(
        config, **{key: value for key, value in constants.items() if value is not None}
    )


def _apply_overrides(
    config: ClipConfig,
    settings: ImageSettings,
    act: str | None,
    heads: tuple[int, int] | None,
    where: Path,
) -> ClipConfig:
    """Returns the config with a folder's image settings and the caller's overrides."""
    changes: dict[str, Any] = {"image_mean": settings.mean, "image_std": settings.std}
    if act is not None:
        changes["act"] = act
    if heads is not None:
        changes |= dict(zip(("vision_heads", "text_heads"), heads, strict=True))
    config = dataclasses.replace(config, **changes)
    check_heads(config, str(where))
    return config


def find_clip(path_or_hub_id: str | os.PathLike) -> Path:
    """Returns the local folder or file; a hub id is downloaded into the hub's cache.

    Raises:
      UserError: there is no such path or hub id.
    """
    return hub.find(path_or_hub_id).path


def save_clip(
    folder: str | os.PathLike,
    config: ClipConfig,
    params: Params,
    *,
    tokenizer_json: str | os.PathLike | None = None,
    tokenizer: Callable[[str], object] | None = None,
    text_length: int | None = None,
    dtype: str = "float32",
    checked: bool = False,
) -> None:
    """Writes a folder in Hugging Face's format of CLIP or SigLIP that `load_clip` and `transformers` read.

    The folder holds config.json, model.safetensors, preprocessor_config.json and a tokenizer.json if one is
    given. Files of an earlier call are replaced, all together. A position embedding whose grid is not square
    is stored as a square of the longer side (see `to_hugging_face` and `to_siglip`); `load_clip` restores it
    up to the rounding of `dtype`, but that of CLIP only if one side is an odd multiple of the other.

    Args:
      folder: created if missing.
      config: sizes, image mean and std.
      params: the tree of weights that `load_clip` returns.
      tokenizer_json: a file to copy.
      tokenizer: instead of `tokenizer_json`, a function that writes the file to a path.
      text_length: the number of tokens that texts are truncated to, if it is not the context length.
      dtype: of the saved weights, "float32" or "float16".
      checked: whether the caller has checked that the folder holds no weights of another origin.

    Raises:
      UserError: the folder cannot be written or holds weights of another origin, or a weight overflows
        float16.
    """
    folder = Path(folder)
    if not checked:
        save_folder.check(folder, save_folder.WEIGHTS)
    convert = siglip.to_siglip if config.family == "siglip" else to_hugging_face
    state, config_json = convert(params, config)
    with np.errstate(over="ignore"):  # reported below, by name
        narrow = {name: np.asarray(array).astype(dtype) for name, array in state.items()}
    for name, array in narrow.items():
        if not np.isfinite(array).all():
            raise UserError(f"{folder}: weight {name!r} is not finite in {dtype}; save it in float32")
    files = {
        "model.safetensors": lambda path: write_state(path, narrow),
        "preprocessor_config.json": lambda path: write_json(path, preprocessor_config(config)),
    }
    if tokenizer is not None:
        files["tokenizer.json"] = tokenizer
    elif tokenizer_json is not None:
        files["tokenizer.json"] = lambda path: shutil.copyfile(tokenizer_json, path)
    shorter = {TEXT_LENGTH: text_length} if text_length not in (None, config.context_length) else {}
    save_folder.write(folder, files, lambda: {**config_json, **shorter, "dtype": dtype})


def read_text_length(folder: Path, config: ClipConfig) -> int | None:
    """Returns the `text_length` that `save_clip` recorded in a folder; None if there is none."""
    length = (save_folder.read_config(folder) or {}).get(TEXT_LENGTH)
    return length if type(length) is int and 0 < length <= config.context_length else None


def weight_files(path: str | os.PathLike) -> list[Path]:
    """Returns the weights files of a folder, sorted by name, or the given file itself.

    Raises:
      UserError: the folder has no weights.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    return [path / name for name in folder_format.weights_of(path, names)]


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: array for file in weight_files(folder) for name, array in read_state(file).items()}


def _read_config(folder: Path) -> dict:
    if folder_format.is_open_clip(folder):
        return read_json(folder / open_clip_config.CONFIG)
    path = folder / "config.json"
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if not path.is_file() and (remedy := folder_format.remedy(folder, names)):
        raise UserError(f"{path}: no such file; {remedy}")
    config = read_json(path)
    folder_format.check_not_adapted(config, folder)
    folder_format.check_own_code(config, str(path))
    if config.get("model_type") == save_folder.INTERRUPTED:
        raise UserError(f"{folder}: holds {save_folder.INTERRUPTED}; save the model there again")
    siglip.check_kind(config, str(path))
    return config


def _read_image_settings(folder: Path, config: dict) -> ImageSettings:
    """Reads a folder's image settings, with the defaults of the model that its config describes."""
    if folder_format.is_open_clip(folder):
        return open_clip_config.read_image_settings(config, str(folder / open_clip_config.CONFIG))
    return read_image_settings(folder, siglip.IMAGE_SETTINGS if siglip.is_siglip(config) else CLIP_SETTINGS)
