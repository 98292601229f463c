"""Loads the folder of a saved model; `save_adapter` describes what is in it."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tpr_jax.data.tokenizer import Tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models.config import ACTS, ClipConfig
from tpr_jax.models.methods import Method, check
from tpr_jax.utils.trees import flatten, unflatten
from tpr_jax.weights.backbone import Backbone, backbone_tokenizer, find, read_tokenizer, sha256
from tpr_jax.weights.clip import load_clip
from tpr_jax.weights.files import read_state
from tpr_jax.weights.method_json import method_from_json
from tpr_jax.weights.openai import from_openai, with_grid
from tpr_jax.weights.save_adapter import (
    ADAPTER,
    BUNDLED_BACKBONE,
    FORMAT_VERSION,
    MODEL_TYPE,
    POSITIONS,
)
from tpr_jax.weights.state_dict import unwrap_names
from tpr_jax.weights.text_positions import with_text_positions


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """The config.json of a saved model.

    Attributes:
      method: what was trained.
      image_size: (height, width) in pixels.
      image_mean: the mean of the red, green and blue channels, for pixels in [0, 1].
      image_std: their standard deviation.
      text_length: tokens per text.
      context_length: tokens that the text tower takes, to which those of the backbone are stretched; None in
        models saved by the first versions.
      tokenizer: "tokenizer.json" in the folder, or that of the "backbone".
      name: the name of the backbone.
      sha256: the hash of the backbone's weights file.
      revision: the backbone's revision on the hub. Models saved by the first versions lack this and the next
        two.
      act: activation of the backbone.
      heads: the attention heads of the vision and the text tower.
    """

    method: Method
    image_size: tuple[int, int]
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    text_length: int
    context_length: int | None
    tokenizer: str
    name: str
    sha256: str
    revision: str | None
    act: str | None
    heads: tuple[int, int] | None


BACKBONE_KEYS = ("name", "sha256", "revision", "act", "heads")  # under "backbone" in config.json
IS_VALID: dict[str, Callable] = {
    "image_size": lambda v: _is_number_list(v, 2, int) and min(v) > 0,
    "image_mean": lambda v: _is_number_list(v, 3, int | float),
    "image_std": lambda v: _is_number_list(v, 3, int | float) and min(v) > 0,
    "text_length": lambda v: isinstance(v, int) and v > 2,
    "context_length": lambda v: v is None or (type(v) is int and v > 0),
    "tokenizer": lambda v: v in ("tokenizer.json", "backbone"),
    "name": lambda v: isinstance(v, str) and v,
    "sha256": lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v),
    "revision": lambda v: v is None or (isinstance(v, str) and v),
    "act": lambda v: v is None or v in ACTS,
    "heads": lambda v: v is None or (_is_number_list(v, 2, int) and min(v) > 0),
}


def read_adapter_config(folder: str | os.PathLike) -> AdapterConfig | None:
    """Reads the config.json of a saved model; returns None for any other kind of folder.

    Raises:
      UserError: the file is damaged, or written by a newer version.
    """
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the reader of CLIP folders reports it
    if not isinstance(content, dict) or content.get("model_type") != MODEL_TYPE:
        return None
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format_version={version!r}, but this version of tpr_jax reads {FORMAT_VERSION}; "
            "update tpr_jax"
        )
    backbone = content.get("backbone")
    backbone = backbone if isinstance(backbone, dict) else {}
    settings: dict[str, Any] = {}
    for key, is_valid in IS_VALID.items():
        value = backbone.get(key) if key in BACKBONE_KEYS else content.get(key)
        if not is_valid(value):
            full_key = f"backbone.{key}" if key in BACKBONE_KEYS else key
            raise UserError(f"{path}: {full_key} has the invalid value {value!r}; save the model again")
        settings[key] = tuple(value) if isinstance(value, list) else value
    return AdapterConfig(method=method_from_json(content.get("method"), f"{path}: method"), **settings)


def load_adapter(
    folder: Path,
    adapter_config: AdapterConfig,
    image_size: tuple[int, int] | None,
    backbone_path: str | os.PathLike | None,
) -> tuple[ClipConfig, dict, Tokenizer | None, Backbone | None]:
    """Loads the arrays of a saved model and those of its backbone.

    Args:
      folder: the folder of the saved model.
      adapter_config: its config.json.
      image_size: (height, width), replaces the saved one.
      backbone_path: a folder or hub id, replaces the backbone's name.

    Returns:
      The sizes, the variables in NumPy, the tokenizer, and the backbone if it can be loaded from elsewhere.

    Raises:
      UserError: the backbone is not available or is another one, the file of trained arrays is missing or
        damaged, or a tuned weight is missing, unknown or misshapen. The other arrays are not checked.
    """
    file, method = folder / ADAPTER, adapter_config.method
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in read_state(file).items()}
    tuned = {
        path.removeprefix("params/"): leaves.pop(path)
        for path in sorted(leaves)
        if path.startswith("params/")
    }
    backbone = _find_backbone(folder, adapter_config, backbone_path)
    saved_size = adapter_config.image_size
    # Position embeddings in the file have the saved size and are resized from there.
    first_size = saved_size if POSITIONS in tuned else image_size or saved_size
    config, params = _load_backbone(backbone.path, tuple(first_size), adapter_config)
    config = dataclasses.replace(
        config,
        image_mean=adapter_config.image_mean,
        image_std=adapter_config.image_std,
        context_length=max(adapter_config.context_length or 0, config.context_length),
    )
    params = with_text_positions(params, config)
    _check_method(folder, method, config)
    flat = flatten(params)
    _check_tuned(file, flat, tuned, method.tuned)
    params = unflatten(flat | tuned)
    if image_size and tuple(image_size) != config.image_size:
        resized = dataclasses.replace(config, image_size=tuple(image_size))
        config, params = resized, with_grid(params, resized, config.grid)
    length = min(adapter_config.text_length, config.context_length)
    if adapter_config.tokenizer == "backbone":
        tokenizer = backbone_tokenizer(backbone.path, config, length)
    else:
        tokenizer = read_tokenizer(folder / "tokenizer.json", config, length)
    variables = {**unflatten(leaves), "params": params}
    return config, variables, tokenizer, None if backbone.name == BUNDLED_BACKBONE else backbone


def _load_backbone(
    path: Path, image_size: tuple[int, int], adapter_config: AdapterConfig
) -> tuple[ClipConfig, dict]:
    if adapter_config.act is None and path.is_file():  # the first versions treated every file as OpenAI's own
        return from_openai(unwrap_names(read_state(path), str(path)), image_size, where=str(path))
    return load_clip(path, image_size, adapter_config.act, adapter_config.heads, notices=False)


def _check_method(folder: Path, method: Method, config: ClipConfig) -> None:
    try:
        check(method, config)
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: the method is invalid: {error}") from error


def _find_backbone(
    folder: Path, adapter_config: AdapterConfig, backbone_path: str | os.PathLike | None
) -> Backbone:
    """Finds the backbone and compares its SHA-256 with that of the training."""
    name = adapter_config.name
    try:
        if backbone_path is not None:
            backbone = find(backbone_path)
        elif name == BUNDLED_BACKBONE:
            backbone = Backbone(BUNDLED_BACKBONE, folder / BUNDLED_BACKBONE)
        else:
            backbone = find(f"{name}@{adapter_config.revision}" if adapter_config.revision else name)
        digest = sha256(backbone.path)
    except UserError as error:
        raise UserError(
            f"{folder}: its backbone {backbone_path or name} is not available ({error}); "
            "pass its location: from_pretrained(..., backbone=FOLDER)"
        ) from error
    if digest != adapter_config.sha256:
        raise UserError(
            f"{folder}: was trained on the backbone {name} with SHA-256 {adapter_config.sha256[:12]}..., but "
            f"{backbone.path} has {digest[:12]}...; "
            "pass the right one: from_pretrained(..., backbone=FOLDER)"
        )
    return backbone


def _check_tuned(file: Path, params: Mapping, tuned: Mapping, patterns: tuple[str, ...]) -> None:
    expected = {path for path in params if any(re.fullmatch(pattern, path) for pattern in patterns)}
    for path in sorted(expected | tuned.keys()):
        if path not in tuned:
            raise UserError(f"{file}: weight 'params/{path}' is missing; save the model again")
        if path not in expected | {POSITIONS}:
            raise UserError(
                f"{file}: weight 'params/{path}' is not tuned by the method; save the model again"
            )
        if np.shape(tuned[path]) != np.shape(params[path]):
            raise UserError(
                f"{file}: weight 'params/{path}' has shape {list(np.shape(tuned[path]))}, expected "
                f"{list(np.shape(params[path]))}; save the model again"
            )


def _is_number_list(value: object, count: int, kind) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, kind) and not isinstance(v, bool) and np.isfinite(v) for v in value)
    )
