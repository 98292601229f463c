"""Loading a CLIP from a folder, a file or the Hugging Face hub, and saving one; see also `names`.

config, params = load_clip("openai/clip-vit-base-patch16", image_size=(384, 128))
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.utils.files import write_json
from tpr_jax.utils.notices import say_once
from tpr_jax.weights import hub, save_folder
from tpr_jax.weights.bare_file import load_bare_file
from tpr_jax.weights.files import read_state, write_state
from tpr_jax.weights.hugging_face import from_hugging_face, read_config, to_hugging_face
from tpr_jax.weights.json_files import read_json
from tpr_jax.weights.name_maps import Params
from tpr_jax.weights.openai import check_heads, from_openai, to_openai
from tpr_jax.weights.preprocessor import preprocessor_config, read_image_settings
from tpr_jax.weights.state_dict import unwrap_names

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

# In the order in which transformers looks for them: one file, or an index of several.
SINGLE_AND_INDEX = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
BARE = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # OpenCLIP's, under OpenAI's names


def load_clip(
    path_or_hub_id: str | os.PathLike,
    image_size: tuple[int, int] | None = None,
    act: str | None = None,
    heads: tuple[int, int] | None = None,
    notices: bool = True,
) -> tuple[ClipConfig, Params]:
    """Sizes and float32 weights of a CLIP; see `names` for the tree.

    Takes a folder in Hugging Face's format, the id of one on their hub, or one file of weights under OpenAI's
    names. `image_size` is (height, width) in pixels and defaults to that of the folder's image settings, or
    of its config; positions are resized to it. `act` ("quick_gelu" or "gelu") and `heads` (vision, text) are
    what the folder says unless given; a file alone may need them (`bare_file`). `notices`: whether to print
    which of the folder's image settings are not followed.

    Raises:
      UserError: nothing is found there, a weight is missing, unknown or misshapen, a file is damaged,
        `image_size` is no multiple of the patch size, or a file does not tell its activation and heads.
    """
    path = find_clip(path_or_hub_id)
    if path.is_file():
        return load_bare_file(path, image_size, act, heads)
    config = _read_config(path)
    settings = read_image_settings(path)
    if notices and settings["ignored"]:
        say_once(settings["ignored"])
    state = unwrap_names(_read_weights(path), str(path))
    ours, params = from_hugging_face(state, config, image_size or settings["image_size"], where=str(path))
    return _as_told(ours, settings, act, heads, path), params


def read_sizes(
    folder: str | os.PathLike, act: str | None = None, heads: tuple[int, int] | None = None
) -> ClipConfig:
    """The sizes that a folder's config.json gives, and its mean and std, without reading any weight."""
    path = Path(folder)
    if path.is_file():
        raise UserError(
            f"{path}: is a file; to know the sizes without the weights, give a folder with config.json"
        )
    return _as_told(
        read_config(_read_config(path), str(path / "config.json")),
        read_image_settings(path),
        act,
        heads,
        path,
    )


def _as_told(
    config: ClipConfig, settings: dict, act: str | None, heads: tuple | None, where: Path
) -> ClipConfig:
    """The config with a folder's image settings, and with what the caller knows better."""
    changes = {"image_mean": settings["mean"], "image_std": settings["std"]}
    if act is not None:
        changes["act"] = act
    if heads is not None:
        changes |= dict(zip(("vision_heads", "text_heads"), heads, strict=True))
    told = dataclasses.replace(config, **changes)
    check_heads(told, str(where))
    return told


def find_clip(path_or_hub_id: str | os.PathLike) -> Path:
    """The local folder or file; a hub id is downloaded (once, into the hub's own cache).

    Raises:
      UserError: neither a path nor an id that can be reached.
    """
    return hub.find(path_or_hub_id).path


def save_clip(
    folder: str | os.PathLike,
    config: ClipConfig,
    params: Params,
    *,
    tokenizer_json: str | os.PathLike | None = None,
    tokenizer: Callable[[str], object] | None = None,
    dtype: str = "float32",
    checked: bool = False,
) -> None:
    """Writes a folder in Hugging Face's CLIP format that `load_clip` and `transformers` read.

    `config.json`, `model.safetensors` in `dtype` ("float32" or "float16"), `preprocessor_config.json` with
    the image size, mean and deviation, and a copy of the file `tokenizer_json` (or what `tokenizer` writes to
    a path). Positions of a grid that is
    not square are stored as a square of the longer side (see `to_hugging_face`); `load_clip` restores the
    grid, exactly where one side is an odd multiple of the other, up to the rounding of `dtype`.

    What an earlier call wrote there is replaced, all together; weights of another origin never are, unless
    the caller has `checked` the folder.

    Raises:
      UserError: the folder cannot be written or holds weights of another origin, or a weight is too large for
        float16.
    """
    folder = Path(folder)
    if not checked:
        save_folder.check(folder, save_folder.WEIGHTS)
    state, config_json = to_hugging_face(params, config)
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
    save_folder.write(folder, files, lambda: {**config_json, "dtype": dtype})


def weight_files(path: str | os.PathLike) -> list[Path]:
    """The files that hold a CLIP's weights: those of a folder by their names, or the one file itself.

    Raises:
      UserError: the folder has none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    for single, index in SINGLE_AND_INDEX:
        if (path / single).is_file():
            return [path / single]
        if (path / index).is_file():
            return _shards(path / index)
    raise UserError(
        f"{path / 'model.safetensors'}: no such file; {_bare(path) or 'the folder is not a whole CLIP'}"
    )


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index}: has no weight_map; restore the original file")
    if not all(isinstance(name, str) and Path(name).name == name for name in names.values()):
        raise UserError(
            f"{index}: its weight_map names something else than files beside it; restore the original file"
        )
    return [index.parent / name for name in sorted(set(names.values()))]


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: array for file in weight_files(folder) for name, array in read_state(file).items()}


def _read_config(folder: Path) -> dict:
    path = folder / "config.json"
    if not path.is_file() and (bare := _bare(folder)):
        raise UserError(f"{path}: no such file; {bare}")
    config = read_json(path)
    if config.get("model_type") == save_folder.INTERRUPTED:
        raise UserError(f"{folder}: holds {save_folder.INTERRUPTED}; save the model there again")
    return config


def _bare(folder: Path) -> str:
    """Says what to do with OpenCLIP's file in a folder; empty where there is none."""
    found = next((folder / name for name in BARE if (folder / name).is_file()), None)
    return f"to use OpenCLIP's weights, give {found} itself, with act and heads" if found else ""
