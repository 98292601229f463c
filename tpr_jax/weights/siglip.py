"""Converts SigLIP from and to the weights and config.json of Hugging Face's `SiglipModel`.

SigLIP 2 at a fixed resolution has the same towers and the same `model_type`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.weights.hugging_face import act_name, check_towers, logit_scale_in, pair, section
from tpr_jax.weights.name_maps import Params, from_names, siglip_weights, to_names
from tpr_jax.weights.openai import check_image_size, resize_grid
from tpr_jax.weights.preprocessor import ImageSettings
from tpr_jax.weights.resize import square_of
from tpr_jax.weights.state_dict import scalar

IMAGE_SETTINGS = ImageSettings(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# The defaults of keys that config.json leaves out.
TOWER_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_tanh",
    "layer_norm_eps": 1e-6,
}
VISION_DEFAULTS = {
    **TOWER_DEFAULTS,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}
TEXT_DEFAULTS = {
    **TOWER_DEFAULTS,
    "max_position_embeddings": 64,
    "vocab_size": 32000,
    "projection_size": None,
}
LOGIT_SCALE, LOGIT_BIAS = 2.302585092994046, -10.0  # log(10): the initial values of the paper
# Relatives that are not supported, by their model_type.
FIXED = "use a SigLIP 2 of fixed resolution, such as google/siglip2-base-patch16-256"
WHOLE = "use the folder of the whole model, whose model_type is siglip"
RELATIVES = {
    "siglip2": f"is SigLIP 2 NaFlex, whose images keep their aspect ratio; {FIXED}",
    "siglip2_vision_model": f"is the vision tower of SigLIP 2 NaFlex alone; {FIXED}",
    "siglip2_text_model": f"is the text tower of SigLIP 2 NaFlex alone; {FIXED}",
    "siglip_vision_model": f"is the vision tower of a SigLIP alone; {WHOLE}",
    "siglip_text_model": f"is the text tower of a SigLIP alone; {WHOLE}",
}


def is_siglip(config: Mapping) -> bool:
    """Returns whether the contents of a config.json are those of a SigLIP."""
    return config.get("model_type") == "siglip"


def check_kind(config: Mapping, where: str) -> None:
    """Rejects the relatives of SigLIP that are not supported.

    Raises:
      UserError: the config.json is that of one of them; the message says what to use.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in RELATIVES:
        raise UserError(f"{where}: model_type {kind!r} {RELATIVES[kind]}")


def read_config(config: Mapping, where: str = "config.json") -> ClipConfig:
    """Returns the sizes in the contents of a Hugging Face SigLIP's config.json, at its own image size.

    Raises:
      UserError: it describes another kind of model, or a value is invalid or not supported.
    """
    check_kind(config, where)
    if not is_siglip(config):
        raise UserError(f"{where}: model_type is {config.get('model_type')!r}, expected 'siglip'")
    vision: dict[str, Any] = VISION_DEFAULTS | section(config, "vision_config", where)
    text: dict[str, Any] = TEXT_DEFAULTS | section(config, "text_config", where)
    check_towers(config, vision, text, where)
    if vision["vision_use_head"] is not True:
        raise UserError(
            f"{where}: vision_use_head is {vision['vision_use_head']!r}, but retrieval needs the pooling "
            "head; use a SigLIP that has it"
        )
    embed = text["hidden_size"] if text["projection_size"] is None else text["projection_size"]
    if embed != vision["hidden_size"]:
        raise UserError(
            f"{where}: projection_size of the text tower is {embed!r}, expected the vision tower's "
            f"hidden_size of {vision['hidden_size']}; fix the file"
        )
    return ClipConfig(
        family="siglip",
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
        embed_dim=embed,
        act=vision["hidden_act"],
        layer_norm_eps=vision["layer_norm_eps"],
        logit_scale=logit_scale_in(config, LOGIT_SCALE, where),
        logit_bias=LOGIT_BIAS,
        image_mean=IMAGE_SETTINGS.mean,
        image_std=IMAGE_SETTINGS.std,
    )


def write_config(config: ClipConfig) -> dict:
    """Returns the contents of config.json; its image size, a single number, is the longer side."""
    shared = {
        "hidden_act": act_name(config.act),
        "layer_norm_eps": config.layer_norm_eps,
        "attention_dropout": 0.0,
    }
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": {
            "model_type": "siglip_text_model",
            "hidden_size": config.text_width,
            "intermediate_size": config.text_mlp,
            "num_hidden_layers": config.text_layers,
            "num_attention_heads": config.text_heads,
            "max_position_embeddings": config.context_length,
            "vocab_size": config.vocab_size,
            "projection_size": config.embed_dim,
            **shared,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": config.vision_width,
            "intermediate_size": config.vision_mlp,
            "num_hidden_layers": config.vision_layers,
            "num_attention_heads": config.vision_heads,
            "num_channels": 3,
            "image_size": max(config.image_size),
            "patch_size": config.patch_size,
            "vision_use_head": True,
            **shared,
        },
    }


def from_siglip(
    state: Mapping[str, np.ndarray],
    config: Mapping,
    image_size: tuple[int, int] | None = None,
    *,
    where: str = "weights",
) -> tuple[ClipConfig, Params]:
    """Converts `SiglipModel`'s state dict and the contents of its config.json to sizes and a tree of weights.

    Args:
      state: name -> array.
      config: the contents of config.json.
      image_size: (height, width) in pixels, to which the position embedding is resized; by default its own.
      where: the file, for error messages.

    Raises:
      UserError: a weight is missing, unknown or misshapen, the config is not that of a SigLIP, or
        `image_size` is smaller than a patch.
    """
    own = read_config(config, where)
    ignore = {"logit_scale", "logit_bias"} | {name for name in state if name.endswith(".position_ids")}
    params = from_names(state, siglip_weights(own, own.grid), ignore=frozenset(ignore), where=where)
    loaded = dataclasses.replace(
        own,
        image_size=tuple(image_size or own.image_size),
        logit_scale=scalar(state, "logit_scale", own.logit_scale, where),
        logit_bias=scalar(state, "logit_bias", LOGIT_BIAS, where),
    )
    check_image_size(loaded)
    return loaded, resize_grid(params, loaded, own.grid)


def to_siglip(params: Params, config: ClipConfig) -> tuple[dict[str, np.ndarray], dict]:
    """Returns `SiglipModel`'s state dict (float32) and the contents of its config.json.

    Hugging Face's image size is a single number, so a position embedding whose grid is not square is stored
    as a square of the longer side that is resized to it.
    """
    rows, columns = config.grid
    square = config
    if rows != columns:
        side = max(rows, columns) * config.patch_size
        square = dataclasses.replace(config, image_size=(side, side))
        positions = square_of(np.asarray(params["visual"]["positional_embedding"]), config.grid)
        params = params | {"visual": params["visual"] | {"positional_embedding": positions}}
    state = to_names(params, siglip_weights(square, square.grid))
    bias = LOGIT_BIAS if config.logit_bias is None else config.logit_bias
    scalars = {"logit_scale": config.logit_scale, "logit_bias": bias}
    return state | {k: np.full(1, v, np.float32) for k, v in scalars.items()}, write_config(square)
