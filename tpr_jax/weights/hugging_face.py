"""Converts CLIP from and to the weights and config.json of Hugging Face's `CLIPModel`."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ACTS, ClipConfig
from tpr_jax.weights.name_maps import Params, from_names, hugging_face_weights, to_names
from tpr_jax.weights.openai import with_grid
from tpr_jax.weights.state_dict import scalar
from tpr_jax.weights.text_positions import HUGGING_FACE_TABLES, join_long_positions

# Hugging Face's names of activations that have another name here.
ACT_NAMES = {"gelu_pytorch_tanh": "gelu_tanh"}
# The defaults of keys that config.json leaves out.
VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
TEXT_DEFAULTS = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
# Long-CLIP in this format has code of its own, which adds a second table of text positions to CLIP.
LONG_CLIP, LONG_DEFAULTS = "longclip", {"max_position_embeddings": 248}
VISION_COUNTS = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
TEXT_COUNTS = [*VISION_COUNTS, "max_position_embeddings", "vocab_size"]
# Early files say 2 and mean "the highest id": the text feature is then taken at the argmax of the ids.
LEGACY_EOS = 2
# Arrays that are no weights; Long-CLIP's masks select the positions of each of its two tables.
BUFFERS = (".position_ids", ".embeddings.mask1", ".embeddings.mask2")


def read_config(config: Mapping, where: str = "config.json") -> ClipConfig:
    """Returns the sizes in the contents of a Hugging Face CLIP's config.json, at its own image size.

    Raises:
      UserError: it describes another kind of model, or a value is invalid or not supported.
    """
    if config.get("model_type") not in ("clip", LONG_CLIP):
        kind = config.get("model_type")
        raise UserError(f"{where}: model_type is {kind!r}, expected 'clip' or 'siglip'")
    vision: dict[str, Any] = VISION_DEFAULTS | section(config, "vision_config", where)
    defaults = TEXT_DEFAULTS | (LONG_DEFAULTS if config["model_type"] == LONG_CLIP else {})
    text: dict[str, Any] = defaults | section(config, "text_config", where)
    embed_dim = config.get("projection_dim")
    embed_dim = 512 if embed_dim is None else embed_dim
    _check_counts({"projection_dim": embed_dim}, ["projection_dim"], where)
    check_towers(config, vision, text, where)
    return ClipConfig(
        image_size=pair(vision, "image_size", where),
        patch_size=pair(vision, "patch_size", where)[0],
        vision_width=vision["hidden_size"],
        vision_layers=vision["num_hidden_layers"],
        vision_heads=vision["num_attention_heads"],
        vision_mlp=vision["intermediate_size"],
        text_width=text["hidden_size"],
        text_layers=text["num_hidden_layers"],
        text_heads=text["num_attention_heads"],
        text_mlp=text["intermediate_size"],
        context_length=text["max_position_embeddings"],
        vocab_size=text["vocab_size"],
        embed_dim=embed_dim,
        act=vision["hidden_act"],
        layer_norm_eps=vision["layer_norm_eps"],
        eot_id=_eot_id(text, where),
        logit_scale=logit_scale_in(config, ClipConfig.logit_scale, where),
    )


def check_towers(config: Mapping, vision: Mapping, text: Mapping, where: str) -> None:
    """Checks what the config.json of CLIP and of SigLIP have in common, with defaults filled in.

    Raises:
      UserError: a value is invalid or not supported.
    """
    if config.get("quantization_config"):
        raise UserError(
            f"{where}: quantization_config is not supported; use the weights that are not quantized"
        )
    for key in ("hidden_act", "layer_norm_eps"):
        if vision[key] != text[key]:
            raise UserError(f"{where}: {key} differs between the towers ({vision[key]!r}, {text[key]!r})")
    if vision["hidden_act"] not in ACTS:
        raise UserError(
            f"{where}: hidden_act {vision['hidden_act']!r} is not known; use 'quick_gelu' or 'gelu'"
        )
    eps = vision["layer_norm_eps"]
    if not isinstance(eps, int | float) or isinstance(eps, bool) or not 0 < eps < 1:
        raise UserError(f"{where}: layer_norm_eps is {eps!r}, expected a small number above 0; fix the file")
    _check_counts(vision, VISION_COUNTS, f"{where}: vision_config")
    _check_counts(text, TEXT_COUNTS, f"{where}: text_config")
    if vision["num_channels"] != 3:
        raise UserError(f"{where}: num_channels is {vision['num_channels']}, expected 3")
    for name, tower in (("vision", vision), ("text", text)):
        if tower["hidden_size"] % tower["num_attention_heads"]:
            raise UserError(
                f"{where}: {name} hidden_size {tower['hidden_size']} is not divisible by "
                f"num_attention_heads {tower['num_attention_heads']}"
            )
    patch = pair(vision, "patch_size", where)
    if patch[0] != patch[1]:
        raise UserError(
            f"{where}: patch_size is {vision['patch_size']}, but only square patches are supported"
        )
    if any(side < patch[0] for side in pair(vision, "image_size", where)):
        raise UserError(f"{where}: image_size {vision['image_size']} is smaller than patch_size {patch[0]}")


def _eot_id(text: Mapping, where: str) -> int | None:
    eos = text["eos_token_id"]
    if isinstance(eos, list) and len(eos) == 1:
        eos = eos[0]
    if type(eos) is not int or eos < 0:
        raise UserError(
            f"{where}: eos_token_id is {text['eos_token_id']!r}, expected one token's id; fix the file"
        )
    if eos == LEGACY_EOS:
        return None
    if eos >= text["vocab_size"]:
        raise UserError(
            f"{where}: eos_token_id {eos} is outside the vocabulary of {text['vocab_size']}; fix the file"
        )
    return eos


def logit_scale_in(config: Mapping, default: float, where: str) -> float:
    """Returns the log temperature to use if the weights have none.

    Raises:
      UserError: the config has one that is not a number.
    """
    value = config.get("logit_scale_init_value")
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{where}: logit_scale_init_value is {value!r}, expected a number; fix the file")
    return float(value)


def _check_counts(section: Mapping, keys: list[str], where: str) -> None:
    for key in keys:
        if type(section[key]) is not int or section[key] < 1:
            raise UserError(
                f"{where}: {key} is {section[key]!r}, expected a whole number above 0; fix the file"
            )


def pair(section: Mapping, key: str, where: str) -> tuple[int, int]:
    """Returns (height, width) from a value of one or two integers.

    Raises:
      UserError: the value is anything else.
    """
    value = section[key]
    sides = value if isinstance(value, list) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UserError(
            f"{where}: {key} is {value!r}, expected one or two whole numbers above 0; fix the file"
        )
    height, width = sides
    return height, width


def write_config(config: ClipConfig) -> dict:
    """Returns the contents of config.json; its image size, a single number, is the longer side."""
    shared = {
        "hidden_act": act_name(config.act),
        "layer_norm_eps": config.layer_norm_eps,
        "projection_dim": config.embed_dim,
        "attention_dropout": 0.0,
    }
    eos = LEGACY_EOS if config.eot_id is None else config.eot_id
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": config.logit_scale,
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_size": config.text_width,
            "intermediate_size": config.text_mlp,
            "num_hidden_layers": config.text_layers,
            "num_attention_heads": config.text_heads,
            "max_position_embeddings": config.context_length,
            "vocab_size": config.vocab_size,
            "bos_token_id": max(0, (config.vocab_size if config.eot_id is None else config.eot_id + 1) - 2),
            "eos_token_id": eos,
            "pad_token_id": 0,
            **shared,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": config.vision_width,
            "intermediate_size": config.vision_mlp,
            "num_hidden_layers": config.vision_layers,
            "num_attention_heads": config.vision_heads,
            "num_channels": 3,
            "image_size": max(config.image_size),
            "patch_size": config.patch_size,
            **shared,
        },
    }


def from_hugging_face(
    state: Mapping[str, np.ndarray],
    config: Mapping,
    image_size: tuple[int, int] | None = None,
    *,
    where: str = "weights",
) -> tuple[ClipConfig, Params]:
    """Converts `CLIPModel`'s state dict and the contents of its config.json to sizes and a tree of weights.

    Args:
      state: name -> array.
      config: the contents of config.json.
      image_size: (height, width) in pixels, to which the position embedding is resized; by default its own.
      where: the file, for error messages.

    Raises:
      UserError: a weight is missing, unknown or misshapen, the config is not that of a CLIP, or `image_size`
        is smaller than a patch.
    """
    own_config = read_config(config, where)
    grid = own_config.grid
    state = join_long_positions(state, where, HUGGING_FACE_TABLES)
    ignore = frozenset({"logit_scale"} | {name for name in state if name.endswith(BUFFERS)})
    params = from_names(state, hugging_face_weights(own_config, grid), ignore=ignore, where=where)
    logit_scale = scalar(state, "logit_scale", own_config.logit_scale, where)
    new_config = dataclasses.replace(
        own_config, image_size=tuple(image_size or own_config.image_size), logit_scale=logit_scale
    )
    return new_config, with_grid(params, new_config, grid)


def to_hugging_face(params: Params, config: ClipConfig) -> tuple[dict[str, np.ndarray], dict]:
    """Returns `CLIPModel`'s state dict (float32) and the contents of its config.json.

    Hugging Face's image size is a single number, so a position embedding whose grid is not square is resized
    to a square of the longer side. Resized back to the original grid it is exactly the same if the longer
    side is an odd multiple of the shorter (12 x 4, 24 x 8), and slightly smoothed otherwise.
    """
    side = max(config.grid)
    square = dataclasses.replace(config, image_size=(side * config.patch_size, side * config.patch_size))
    resized = with_grid(params, square, config.grid)
    state = to_names(resized, hugging_face_weights(square, (side, side)))
    return state | {"logit_scale": np.asarray(config.logit_scale, np.float32)}, write_config(config)


def section(config: Mapping, key: str, where: str) -> dict:
    """Returns one tower's settings; in some older files `<key>_dict` takes precedence.

    Raises:
      UserError: the settings are not a set of keys.
    """
    merged = {}
    for name in (key, f"{key}_dict"):
        settings = config.get(name) or {}
        if not isinstance(settings, Mapping):
            raise UserError(f"{where}: {name} is not a set of keys; restore the original file")
        merged |= {k: v for k, v in settings.items() if v is not None}
    if isinstance(act := merged.get("hidden_act"), str):
        merged["hidden_act"] = ACT_NAMES.get(act, act)
    return merged


def act_name(act: str) -> str:
    """Returns Hugging Face's name of an activation."""
    return {ours: theirs for theirs, ours in ACT_NAMES.items()}.get(act, act)
