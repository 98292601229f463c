"""CLIP from and to the weights and `config.json` of Hugging Face's `CLIPModel`."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.weights.names import Params, from_names, hugging_face_weights, to_names
from tpr_jax.weights.openai import with_grid

# What a key means when config.json leaves it out.
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
# Early files said 2 and meant "the highest id"; the text feature is then read at the argmax of the ids.
LEGACY_EOS = 2


def read_config(config: Mapping, where: str = "config.json") -> ClipConfig:
    """Our sizes from the contents of a Hugging Face CLIP's `config.json`, at its own square image size.

    Raises:
      UserError: it is another kind of model, or uses an activation or number of channels not known here.
    """
    if config.get("model_type") != "clip":
        raise UserError(f"{where}: model_type is {config.get('model_type')!r}, expected 'clip'")
    vision = VISION_DEFAULTS | _section(config, "vision_config", where)
    text = TEXT_DEFAULTS | _section(config, "text_config", where)
    for key in ("hidden_act", "layer_norm_eps"):
        if vision[key] != text[key]:
            raise UserError(f"{where}: {key} differs between the towers ({vision[key]!r}, {text[key]!r})")
    if vision["hidden_act"] not in ("quick_gelu", "gelu"):
        raise UserError(
            f"{where}: hidden_act {vision['hidden_act']!r} is not known; use 'quick_gelu' or 'gelu'"
        )
    if vision["num_channels"] != 3:
        raise UserError(f"{where}: num_channels is {vision['num_channels']}, expected 3")
    for name, tower in (("vision", vision), ("text", text)):
        if tower["hidden_size"] % tower["num_attention_heads"]:
            raise UserError(
                f"{where}: {name} hidden_size {tower['hidden_size']} is not divisible by "
                f"num_attention_heads {tower['num_attention_heads']}"
            )
    return ClipConfig(
        image_size=(vision["image_size"], vision["image_size"]),
        patch_size=vision["patch_size"],
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
        embed_dim=config.get("projection_dim", 512),
        act=vision["hidden_act"],
        layer_norm_eps=vision["layer_norm_eps"],
        eot_id=None if text["eos_token_id"] == LEGACY_EOS else text["eos_token_id"],
    )


def write_config(config: ClipConfig) -> dict:
    """The contents of `config.json`; the image size, one number there, is the longer side."""
    shared = {
        "hidden_act": config.act,
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
    """Our tree and sizes from `CLIPModel`'s state dict and the contents of its `config.json`.

    The position embedding is resized where `image_size` (height, width) asks for another grid than its own.

    Raises:
      UserError: a weight is missing, unknown or misshapen, the config is not of a CLIP, or `image_size` is no
        multiple of the patch size.
    """
    own = read_config(config, where)
    side = own.image_size[0] // own.patch_size
    ignore = frozenset({"logit_scale"} | {name for name in state if name.endswith(".position_ids")})
    params = from_names(state, hugging_face_weights(own, (side, side)), ignore=ignore, where=where)
    logit_scale = float(np.reshape(state.get("logit_scale", own.logit_scale), ()))
    ours = dataclasses.replace(own, image_size=tuple(image_size or own.image_size), logit_scale=logit_scale)
    return ours, with_grid(params, ours, (side, side))


def to_hugging_face(params: Params, config: ClipConfig) -> tuple[dict[str, np.ndarray], dict]:
    """`CLIPModel`'s state dict (float32) and the contents of its `config.json`.

    Hugging Face's image size is one number, so the positions of a grid that is not square are resized to a
    square of the longer side. Read back at the original image size they are the very same where the longer
    side is an odd multiple of the shorter (12 x 4, 24 x 8), and slightly smoothed otherwise.
    """
    side = max(config.grid)
    square = dataclasses.replace(config, image_size=(side * config.patch_size, side * config.patch_size))
    resized = with_grid(params, square, config.grid)
    state = to_names(resized, hugging_face_weights(square, (side, side)))
    return state | {"logit_scale": np.float32(config.logit_scale)}, write_config(config)


def _section(config: Mapping, key: str, where: str) -> dict:
    """One tower's settings; some older files keep what counts in `<key>_dict`."""
    merged = {}
    for name in (key, f"{key}_dict"):
        section = config.get(name) or {}
        if not isinstance(section, Mapping):
            raise UserError(f"{where}: {name} is not a set of keys; restore the original file")
        merged |= {k: v for k, v in section.items() if v is not None}
    return merged
