"""Tells in which form a folder or a hub repository holds a CLIP, and which of its files are the weights."""

import json
from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.models.petl_config import Lora
from tpr_jax.weights import open_clip, open_clip_config, siglip
from tpr_jax.weights.hugging_face import LONG_CLIP
from tpr_jax.weights.json_files import read_json

CONFIG = "config.json"
ADAPTER = "adapter.safetensors"  # the mark of a model that this package saved
ADAPTED = "tpr_jax"  # model_type in its config.json
# In the order in which transformers looks for them: a single file, or an index of several.
SINGLE_AND_INDEX = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
# Without open_clip_config.json these do not say which activation and how many heads they need.
OPEN_CLIP_FILES = open_clip.WEIGHTS[:2]


# Types of Hugging Face's config.json with two towers that are read.
MODEL_TYPES = ("clip", LONG_CLIP, "siglip")
# Types that hold half a model.
TOWERS = {"text_model": "a text tower alone", "vision_model": "an image tower alone"}
# Part of a repository's name -> the model that it probably holds, if it has no config.
OTHERS = {"eva": "EVA-CLIP", "pe-core": "a Perception Encoder (PE-Core)", "mobileclip": "MobileCLIP"}


def is_open_clip(folder: Path) -> bool:
    """Returns whether a folder's CLIP is read in OpenCLIP's form."""
    if not (folder / open_clip_config.CONFIG).is_file():
        return False
    return not _is_hugging_face(folder, {path.name for path in folder.iterdir()})


def check_settings(folder: Path, names: Collection[str], where: str) -> None:
    """Rejects the settings of a model that is not supported, before its weights are downloaded.

    Args:
      folder: holds the JSON files.
      names: the names of all files that may be downloaded.
      where: the repository, for error messages.

    Raises:
      UserError: the message says what the model is and what to use instead.
    """
    if (folder / open_clip_config.CONFIG).is_file() and not _is_hugging_face(folder, names):
        open_clip_config.read_config(
            read_json(folder / open_clip_config.CONFIG), f"{where}: {open_clip_config.CONFIG}"
        )
        return
    if (folder / CONFIG).is_file():
        content = read_json(folder / CONFIG)
        siglip.check_kind(content, f"{where}: {CONFIG}")
        check_model_type(content.get("model_type"), f"{where}: {CONFIG}")
        check_own_code(content, f"{where}: {CONFIG}")
        return
    kind = next((kind for part, kind in OTHERS.items() if part in where.lower()), None)
    files = sorted(name for name in names if name.endswith((".pt", ".pth", ".bin", ".safetensors")))
    raise UserError(
        f"{where}: has neither {CONFIG} nor {open_clip_config.CONFIG}"
        + (f"; it seems to be {kind}, which is not supported; {open_clip_config.SUPPORTED}" if kind else "")
        + (
            f"; download {files[0]} and give the file itself, with act and heads"
            if files and not kind
            else ""
        )
    )


def check_model_type(model_type: object, where: str) -> None:
    """Rejects a `model_type` of config.json other than those that have readers.

    Raises:
      UserError: the message names the type, and says what to use.
    """
    if model_type in MODEL_TYPES:
        return
    told = f"{where}: model_type is {model_type!r}"
    for part, kind in TOWERS.items():
        if str(model_type).endswith(part):
            raise UserError(
                f"{told}, {kind}; retrieval needs an image and a text tower: give a complete CLIP, whose "
                "model_type is 'clip'"
            )
    raise UserError(f"{told}, which is not supported; {open_clip_config.SUPPORTED}")


def check_not_adapted(content: Mapping, folder: Path) -> None:
    """Rejects a model that refers to another CLIP, where a complete CLIP is needed: as a backbone.

    Raises:
      UserError: the message says whether and how its weights become those of a CLIP.
    """
    if content.get("model_type") != ADAPTED:
        return
    method = content.get("method") or {}
    kinds = {part.get("part") for tower in ("vision", "text") for part in method.get(tower) or ()}
    told = f"{folder}: holds what method '{method.get('name')}' trained, not a complete CLIP"
    if kinds - {Lora.kind} or method.get("prompts"):
        raise UserError(
            f"{told}, and adapters cannot be folded into its weights: for a backbone, train with "
            "full_finetune, bitfit, layer_norm, linear_probe or lora"
        )
    if not kinds and not method.get("tuned"):
        raise UserError(
            f"{told}, because its positions fit no folder of CLIP: train with images of 3:1, such as 384x128"
        )
    raise UserError(
        f'{told}: fold it into one, python -c "import tpr_jax; '
        f"tpr_jax.from_pretrained('{folder}').merge().save_pretrained('NEW')\", and give NEW"
    )


def check_own_code(content: Mapping, where: str) -> None:
    """Rejects a config.json that names code of its own, such as EVA-CLIP's: the towers may be different.

    Raises:
      UserError: the message names the architecture.
    """
    if content.get("auto_map") and content.get("model_type") != LONG_CLIP:  # only its positions differ
        names = content.get("architectures")
        name = names[0] if isinstance(names, list) and names else "unknown"
        raise UserError(
            f"{where}: auto_map: the model ({name}) needs code of its own, so it is not supported; "
            f"{open_clip_config.SUPPORTED}"
        )


def weights_of(folder: Path, names: Collection[str]) -> list[str]:
    """Returns the names of the weights files that belong to the settings in a folder.

    Args:
      folder: holds the JSON files.
      names: the names of all files, in a repository those that may be downloaded.

    Raises:
      UserError: there are no weights.
    """
    if (folder / open_clip_config.CONFIG).is_file() and not _is_hugging_face(folder, names):
        if name := next((name for name in open_clip.WEIGHTS if name in names), None):
            return [name]
        raise UserError(f"{folder / open_clip.WEIGHTS[0]}: no such file; the folder is not a complete CLIP")
    for single, index in SINGLE_AND_INDEX:
        if single in names:
            return [single]
        if index in names:
            return shards(folder / index)
    raise UserError(
        f"{folder / 'model.safetensors'}: no such file; "
        + (remedy(folder, names) or "the folder is not a complete CLIP")
    )


def remedy(folder: Path, names: Collection[str]) -> str:
    """Returns how to load OpenCLIP's weights without open_clip_config.json, or "" if there are none."""
    file = next((folder / name for name in OPEN_CLIP_FILES if name in names), None)
    return f"to use OpenCLIP's weights, give {file} itself, with act and heads" if file else ""


def _is_hugging_face(folder: Path, names: Collection[str]) -> bool:
    """Returns whether a folder with open_clip_config.json is also a complete one of Hugging Face.

    The config.json and the model.safetensors of the package timm, which hold an image tower alone, are not.
    """
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    is_model = isinstance(content, dict) and "model_type" in content
    return is_model and any(fnmatch(name, pattern) for name in names for pattern in sum(SINGLE_AND_INDEX, ()))


def shards(index: Path) -> list[str]:
    """Returns the names of the files that an index lists, sorted.

    Raises:
      UserError: the index is damaged, or names something other than files beside it.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index}: has no weight_map; restore the original file")
    if not all(isinstance(name, str) and Path(name).name == name for name in names.values()):
        raise UserError(
            f"{index}: its weight_map names something other than files beside it; restore the original file"
        )
    return sorted(set(names.values()))
