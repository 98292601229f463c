"""Loading a CLIP from a folder, a file or the Hugging Face hub, and saving one; see also `names`.

config, params = load_clip("openai/clip-vit-base-patch16", image_size=(384, 128))
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD, ClipConfig
from tpr_jax.weights.files import read_state, write_state
from tpr_jax.weights.hugging_face import from_hugging_face, read_config, to_hugging_face
from tpr_jax.weights.names import Params
from tpr_jax.weights.openai import from_openai, to_openai
from tpr_jax.writing import write_json, write_whole

__all__ = [
    "find_clip",
    "from_hugging_face",
    "from_openai",
    "image_settings",
    "load_clip",
    "read_sizes",
    "save_clip",
    "to_hugging_face",
    "to_openai",
    "weight_files",
]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES = ("*.json", "*.safetensors", "merges.txt")
HUB_PICKLE = "pytorch_model.bin"


def load_clip(
    path_or_hub_id: str | os.PathLike, image_size: tuple[int, int] | None = None
) -> tuple[ClipConfig, Params]:
    """Sizes and float32 weights of a CLIP; see `names` for the tree.

    Takes a folder in Hugging Face's format, the id of one on their hub, or one file of weights under OpenAI's
    names. `image_size` is (height, width) in pixels and defaults to that of the folder's image settings, or
    of its config; positions are resized to it.

    Raises:
      UserError: nothing is found there, a weight is missing, unknown or misshapen, a file is damaged, or
        `image_size` is no multiple of the patch size.
    """
    path = find_clip(path_or_hub_id)
    if path.is_file():
        return from_openai(read_state(path), image_size, where=str(path))
    config = _read_json(path / "config.json")
    image_size = image_size or image_settings(path)["image_size"]
    return from_hugging_face(_read_weights(path), config, image_size, where=str(path))


def read_sizes(folder: str | os.PathLike) -> ClipConfig:
    """The sizes that a folder's config.json gives, without reading any weight."""
    path = Path(folder) / "config.json"
    return read_config(_read_json(path), str(path))


def find_clip(path_or_hub_id: str | os.PathLike) -> Path:
    """The local folder or file; a hub id is downloaded (once, into the hub's own cache).

    Raises:
      UserError: neither a path nor an id that can be reached.
    """
    path = Path(path_or_hub_id)
    if path.exists():
        return path
    if not HUB_ID.fullmatch(str(path_or_hub_id)):
        raise UserError(f"{path}: no such folder or file of CLIP weights; check the path")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{path}: no such folder; to download it by that name, `pip install huggingface_hub`"
        ) from error
    try:
        found = Path(snapshot_download(str(path_or_hub_id), allow_patterns=list(HUB_FILES)))
        if not any(found.glob("*.safetensors")):  # some have their weights as a pickle of PyTorch's only
            found = Path(snapshot_download(str(path_or_hub_id), allow_patterns=[*HUB_FILES, HUB_PICKLE]))
        return found
    except Exception as error:  # the hub's client passes on the errors of several network libraries
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path}: no such folder, and not to be had from the Hugging Face hub ({reason}); "
            "check the name or the network, or give a folder"
        ) from error


def image_settings(folder: str | os.PathLike) -> dict:
    """`{"image_size": (height, width) or None, "mean": 3 floats, "std": 3 floats}` of a folder.

    The size is what images have when they reach the model: after the crop, where one is made. CLIP's own mean
    and deviation stand in for what is not written there.
    """
    settings = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (Path(folder) / name).is_file():
            settings = _read_json(Path(folder) / name)
            settings = settings.get("image_processor", settings)
            break
    crop = settings.get("crop_size") if settings.get("do_center_crop", True) else None
    return {
        "image_size": _sides(crop) or _sides(settings.get("size")),
        "mean": tuple(settings.get("image_mean") or IMAGE_MEAN),
        "std": tuple(settings.get("image_std") or IMAGE_STD),
    }


def save_clip(
    folder: str | os.PathLike,
    config: ClipConfig,
    params: Params,
    *,
    tokenizer_json: str | os.PathLike | None = None,
    dtype: str = "float32",
    mean: tuple[float, float, float] = IMAGE_MEAN,
    std: tuple[float, float, float] = IMAGE_STD,
) -> None:
    """Writes a folder in Hugging Face's CLIP format that `load_clip` and `transformers` read.

    `config.json`, `model.safetensors` in `dtype` ("float32" or "float16"), `preprocessor_config.json` with
    the image size, mean and deviation, and a copy of the file `tokenizer_json`. Positions of a grid that is
    not square are stored as a square of the longer side (see `to_hugging_face`); `load_clip` restores the
    grid, exactly where one side is an odd multiple of the other, up to the rounding of `dtype`.

    Raises:
      UserError: the folder cannot be written, or a weight is too large for float16.
    """
    folder = Path(folder)
    state, config_json = to_hugging_face(params, config)
    with np.errstate(over="ignore"):  # reported below, by name
        narrow = {name: np.asarray(array).astype(dtype) for name, array in state.items()}
    for name, array in narrow.items():
        if not np.isfinite(array).all():
            raise UserError(f"{folder}: weight {name!r} is not finite in {dtype}; save it in float32")
    write_state(folder / "model.safetensors", narrow)
    write_json(folder / "config.json", {**config_json, "dtype": dtype})
    write_json(folder / "preprocessor_config.json", _preprocessor(config.image_size, mean, std))
    if tokenizer_json is not None:
        write_whole(folder / "tokenizer.json", lambda temporary: shutil.copyfile(tokenizer_json, temporary))


def _preprocessor(image_size: tuple[int, int], mean: tuple, std: tuple) -> dict:
    height, width = image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,  # bilinear, as PIL numbers it
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
        "do_convert_rgb": True,
    }


def _sides(size: object) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    return None


def weight_files(path: str | os.PathLike) -> list[Path]:
    """The files that hold a CLIP's weights: those of a folder by their names, or the one file itself.

    Raises:
      UserError: the folder has none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    index = path / "model.safetensors.index.json"
    if index.is_file():
        return [path / name for name in sorted(set(_read_json(index).get("weight_map", {}).values()))]
    files = [path / name for name in ("model.safetensors", HUB_PICKLE) if (path / name).is_file()]
    if not files:
        raise UserError(f"{path / 'model.safetensors'}: no such file; the folder is not a whole CLIP")
    return files[:1]


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: array for file in weight_files(folder) for name, array in read_state(file).items()}


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; the folder is not in Hugging Face's CLIP format") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); restore the original file") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no JSON object; restore the original file")
    return content
