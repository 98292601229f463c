"""Reading the folder of a saved model; `saving` says what is in one."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tpr_jax.data.tokenizer import Tokenizer, folder_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models.config import ACTS, ClipConfig
from tpr_jax.models.methods import Method, check
from tpr_jax.utils.trees import flatten, unflatten
from tpr_jax.weights.backbone import Backbone, find, sha256, tokenizer_of
from tpr_jax.weights.clip import load_clip
from tpr_jax.weights.files import read_state
from tpr_jax.weights.method_json import method_from_plain
from tpr_jax.weights.openai import from_openai, with_grid
from tpr_jax.weights.save_adapter import ADAPTER, FORMAT_VERSION, INSIDE, MODEL_TYPE, POSITIONS
from tpr_jax.weights.state_dict import unwrapped


def read_saved(folder: str | os.PathLike) -> dict | None:
    """The settings in a folder's config.json, its method as `Method`; None for any other kind of folder.

    Raises:
      UserError: the file is damaged, or of a newer version than this.
    """
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # CLIP's own reader says what is wrong
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
    of_backbone = ("name", "sha256", "revision", "act", "heads")
    fits: dict[str, Callable] = {
        "image_size": lambda v: _numbers(v, 2, int) and min(v) > 0,
        "image_mean": lambda v: _numbers(v, 3, int | float),
        "image_std": lambda v: _numbers(v, 3, int | float) and min(v) > 0,
        "text_length": lambda v: isinstance(v, int) and v > 2,
        "tokenizer": lambda v: v in ("tokenizer.json", "backbone"),
        "name": lambda v: isinstance(v, str) and v,
        "sha256": lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v),
        # Models saved by the first versions have none of these.
        "revision": lambda v: v is None or (isinstance(v, str) and v),
        "act": lambda v: v is None or v in ACTS,
        "heads": lambda v: v is None or (_numbers(v, 2, int) and min(v) > 0),
    }
    settings = {}
    for key, fit in fits.items():
        value = backbone.get(key) if key in of_backbone else content.get(key)
        if not fit(value):
            whole = f"backbone.{key}" if key in of_backbone else key
            raise UserError(f"{path}: {whole} has the unusable value {value!r}; save the model again")
        settings[key] = tuple(value) if isinstance(value, list) else value
    return settings | {"method": method_from_plain(content.get("method"), f"{path}: method")}


def load_saved(
    folder: Path, settings: Mapping, image_size: tuple[int, int] | None, place: str | os.PathLike | None
) -> tuple[ClipConfig, dict, Tokenizer | None, Backbone | None]:
    """(sizes, variables in NumPy, tokenizer, backbone) of a saved folder with the settings of `read_saved`.

    `image_size` (height, width) replaces the saved one, `place` the backbone's name.

    Raises:
      UserError: the backbone is not to be found or is another one, the file of the trained leaves is missing
        or damaged, or a tuned weight is missing, unknown or misshapen. The other leaves are not checked.
    """
    file, method = folder / ADAPTER, settings["method"]
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in read_state(file).items()}
    tuned = {
        path.removeprefix("params/"): leaves.pop(path)
        for path in sorted(leaves)
        if path.startswith("params/")
    }
    backbone = _find_backbone(folder, settings, place)
    # Positions of the file's own are of the saved size, and resized from there.
    first = settings["image_size"] if POSITIONS in tuned else image_size or settings["image_size"]
    config, params = _load_backbone(backbone.path, tuple(first), settings)
    config = dataclasses.replace(config, image_mean=settings["image_mean"], image_std=settings["image_std"])
    _check_method(folder, method, config)
    flat = flatten(params)
    _check_tuned(file, flat, tuned, method.tuned)
    params = unflatten(flat | tuned)
    if image_size and tuple(image_size) != config.image_size:
        wanted = dataclasses.replace(config, image_size=tuple(image_size))
        config, params = wanted, with_grid(params, wanted, config.grid)
    length = min(settings["text_length"], config.context_length)
    if settings["tokenizer"] == "backbone":
        tokenizer = tokenizer_of(backbone.path, config, length)
    else:
        tokenizer = folder_tokenizer(folder / "tokenizer.json", length)
    variables = {**unflatten(leaves), "params": params}
    return config, variables, tokenizer, None if backbone.name == INSIDE else backbone


def _load_backbone(path: Path, image_size: tuple[int, int], settings: Mapping) -> tuple[ClipConfig, dict]:
    if settings["act"] is None and path.is_file():  # the first versions took every file for OpenAI's own
        return from_openai(unwrapped(read_state(path), str(path)), image_size, where=str(path))
    return load_clip(path, image_size, settings["act"], settings["heads"], notices=False)


def _check_method(folder: Path, method: Method, config: ClipConfig) -> None:
    try:
        check(method, config)
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: the method is unusable: {error}") from error


def _find_backbone(folder: Path, settings: Mapping, place: str | os.PathLike | None) -> Backbone:
    name = settings["name"]
    try:
        if place is not None:
            backbone = find(place)
        elif name == INSIDE:
            backbone = Backbone(INSIDE, folder / INSIDE)
        else:
            backbone = find(f"{name}@{settings['revision']}" if settings["revision"] else name)
        found = sha256(backbone.path)
    except UserError as error:
        raise UserError(
            f"{folder}: its backbone {place or name} is not to be had ({error}); "
            "say where it is by from_pretrained(..., backbone=FOLDER)"
        ) from error
    if found != settings["sha256"]:
        raise UserError(
            f"{folder}: was trained on the backbone {name} with SHA-256 {settings['sha256'][:12]}..., but "
            f"{backbone.path} has {found[:12]}...; "
            "give the right one by from_pretrained(..., backbone=FOLDER)"
        )
    return backbone


def _check_tuned(file: Path, params: Mapping, tuned: Mapping, patterns: tuple[str, ...]) -> None:
    wanted = {path for path in params if any(re.fullmatch(pattern, path) for pattern in patterns)}
    for path in sorted(wanted | tuned.keys()):
        if path not in tuned:
            raise UserError(f"{file}: weight 'params/{path}' is missing; save the model again")
        if path not in wanted | {POSITIONS}:
            raise UserError(
                f"{file}: weight 'params/{path}' is none that the method tunes; save the model again"
            )
        if np.shape(tuned[path]) != np.shape(params[path]):
            raise UserError(
                f"{file}: weight 'params/{path}' has shape {list(np.shape(tuned[path]))}, expected "
                f"{list(np.shape(params[path]))}; save the model again"
            )


def _numbers(value: object, count: int, kind) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, kind) and not isinstance(v, bool) and np.isfinite(v) for v in value)
    )
