"""Reads the sizes and image settings in OpenCLIP's open_clip_config.json.

The file lists the settings that differ from OpenCLIP's defaults. A setting is accepted if the towers compute
it or if it does not change the features; any other is an error, because a guess would give wrong features.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.weights.openai import check_heads
from tpr_jax.weights.preprocessor import BILINEAR_NAMES, ImageSettings, channels, unfollowed

CONFIG = "open_clip_config.json"
SUPPORTED = "use a vision transformer of LAION, DataComp, DFN or MetaCLIP"
# Part of the name of timm's vision tower -> what the model is, and what to use instead.
TIMM_FAMILIES = {
    "siglip": (
        "a SigLIP in OpenCLIP's form",
        "use Hugging Face's form, such as google/siglip-base-patch16-224",
    ),
    "eva": ("EVA-CLIP, whose vision tower is EVA's", SUPPORTED),
    "pe_core": ("a Perception Encoder (PE-Core)", SUPPORTED),
    "vit_pe": ("a Perception Encoder (PE-Core)", SUPPORTED),
    "mci": ("MobileCLIP", SUPPORTED),
    "fastvit": ("MobileCLIP", SUPPORTED),
}


def is_true_or_false(value: object) -> bool:
    """Returns whether a value is a JSON true or false."""
    return isinstance(value, bool)


def is_off(value: object) -> bool:
    """Returns whether a setting is absent or switched off: null, false, or an empty set of keys."""
    return value is None or value is False or value == {}


def is_count(value: object) -> bool:
    """Returns whether a value is a whole number above 0."""
    return type(value) is int and value > 0


def is_positive(value: object) -> bool:
    """Returns whether a value is a finite number above 0."""
    return is_finite(value) and value > 0


def is_finite(value: object) -> TypeGuard[int | float]:
    """Returns whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def anything(_: object) -> bool:
    """Accepts every value: the setting does not change the features."""
    return True


class Setting(NamedTuple):
    """A key of the config.

    Attributes:
      default: the value of a key that is missing or null.
      accepts: whether a value is one that the towers compute.
      meaning: what a value that is not accepted asks for, "" if it is only invalid.
    """

    default: Any
    accepts: Callable[[Any], bool]
    meaning: str = ""


# Settings of both towers that select another attention or block.
BLOCKS = {
    "ls_init_value": Setting(None, lambda value: value is None or is_positive(value)),
    "act_kwargs": Setting(None, is_off, "another activation (act_kwargs)"),
    "norm_kwargs": Setting(None, lambda value: is_off(value) or _is_eps(value), "another normalization"),
    "block_type": Setting(None, lambda value: value in (None, "default"), "blocks of another type"),
    **{
        key: Setting(False, is_off, f"blocks with {key}")
        for key in (
            "qk_norm",
            "scaled_cosine_attn",
            "scale_heads",
            "scale_attn_inner",
            "scale_attn",
            "scale_fc",
        )
    },
    "output_tokens": Setting(False, is_true_or_false),
    "final_ln_after_pool": Setting(False, is_true_or_false),  # the same for a single token
}
VISION = {
    "layers": Setting(12, is_count, "a ResNet, not a vision transformer"),
    "width": Setting(768, is_count),
    "head_width": Setting(64, is_count),
    "mlp_ratio": Setting(4.0, is_positive),
    "patch_size": Setting(16, lambda value: _is_square(value), "patches that are not square"),
    "image_size": Setting(224, lambda value: _is_pair(value)),
    **BLOCKS,
    "patch_dropout": Setting(0.0, is_finite),  # in training only
    "attentional_pool": Setting(False, is_off, "attentional pooling (CoCa)"),
    "attn_pooler_queries": Setting(256, anything),
    "attn_pooler_heads": Setting(8, anything),
    "no_ln_pre": Setting(False, is_off, "a vision tower without its first LayerNorm (CLIPA)"),
    # The table is among the weights in either case.
    "pos_embed_type": Setting("learnable", lambda value: value in ("learnable", "sin_cos_2d")),
    "pool_type": Setting("tok", lambda value: value == "tok", "pooling over the patches"),
    "global_average_pool": Setting(False, is_off, "pooling over the patches"),  # written by early versions
    "input_patchnorm": Setting(False, is_off, "a LayerNorm of the patches"),
    "timm_model_name": Setting(None, is_off),  # reported by `_check_kind`
    "timm_model_pretrained": Setting(False, anything),
    "timm_pool": Setting("avg", anything),
    "timm_proj": Setting("linear", anything),
    "timm_proj_bias": Setting(False, anything),
    "timm_drop": Setting(0.0, anything),
    "timm_drop_path": Setting(None, anything),
}
TEXT = {
    "context_length": Setting(77, is_count),
    "vocab_size": Setting(49408, is_count),
    "width": Setting(512, is_count),
    "heads": Setting(8, is_count),
    "layers": Setting(12, is_count),
    "mlp_ratio": Setting(4.0, is_positive),
    **BLOCKS,
    "hf_tokenizer_name": Setting(None, lambda value: value is None or isinstance(value, str)),
    "tokenizer_mode": Setting(None, is_off, "a tokenizer in another mode"),
    "tokenizer_kwargs": Setting(None, is_off, "a tokenizer with settings of its own"),
    "embed_cls": Setting(False, is_off, "a text tower with a class token (CoCa)"),
    "pad_id": Setting(0, lambda value: type(value) is int),  # the towers are causal
    "eos_id": Setting(2, lambda value: type(value) is int and value >= 0),
    "no_causal_mask": Setting(False, is_off, "a text tower without a causal mask (CLIPA, SigLIP)"),
    "pool_type": Setting("argmax", lambda value: value in ("argmax", "eos"), "pooling of another text token"),
    "proj_type": Setting("linear", lambda value: value == "linear", "a text projection of another type"),
    "proj_bias": Setting(False, is_off, "a text projection with a bias"),
    "hf_model_name": Setting(None, is_off),  # reported by `_check_kind`
    "hf_model_pretrained": Setting(True, anything),
    "hf_proj_type": Setting("mlp", anything),
    "hf_pooler_type": Setting("mean_pooler", anything),
}
MODEL = {
    "embed_dim": Setting(None, is_count),
    "vision_cfg": Setting(None, lambda value: isinstance(value, Mapping)),
    "text_cfg": Setting(None, lambda value: isinstance(value, Mapping)),
    "quick_gelu": Setting(False, is_true_or_false),
    "custom_text": Setting(False, is_true_or_false),
    "multimodal_cfg": Setting(None, is_off),  # reported by `_check_kind`
    # Settings of the temperature, which does not affect the features.
    "init_logit_scale": Setting(None, anything),
    "init_logit_bias": Setting(None, anything),
    "nonscalar_logit_scale": Setting(False, anything),
    "output_dict": Setting(False, anything),
}
PREPROCESS = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")


def read_config(content: Mapping, where: str = CONFIG) -> ClipConfig:
    """Returns the sizes in the contents of an open_clip_config.json, at its own image size.

    Raises:
      UserError: it describes towers that differ from CLIP's, or a value is invalid or unknown.
    """
    model = content.get("model_cfg")
    if not isinstance(model, Mapping):
        raise UserError(f"{where}: has no model_cfg; restore the original file")
    _check_kind(model, where)
    values = _read(model, MODEL, "model_cfg", where)
    vision = _read(values["vision_cfg"], VISION, "vision_cfg", where)
    text = _read(values["text_cfg"], TEXT, "text_cfg", where)
    eps = [(tower["norm_kwargs"] or {}).get("eps", ClipConfig.layer_norm_eps) for tower in (vision, text)]
    if eps[0] != eps[1]:
        raise UserError(f"{where}: norm_kwargs differ between the towers; {SUPPORTED}")
    if text["pool_type"] == "eos" and text["eos_id"] >= text["vocab_size"]:
        raise UserError(
            f"{where}: eos_id {text['eos_id']} is outside the vocabulary of {text['vocab_size']}; fix the "
            "file"
        )
    height, width = _as_pair(vision["image_size"])
    config = ClipConfig(
        image_size=(height, width),
        patch_size=_as_pair(vision["patch_size"])[0],
        vision_width=vision["width"],
        vision_layers=vision["layers"],
        vision_heads=vision["width"] // vision["head_width"],
        vision_mlp=int(vision["width"] * vision["mlp_ratio"]),
        text_width=text["width"],
        text_layers=text["layers"],
        text_heads=text["heads"],
        text_mlp=int(text["width"] * text["mlp_ratio"]),
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        embed_dim=values["embed_dim"],
        act="quick_gelu" if values["quick_gelu"] else "gelu",
        layer_norm_eps=eps[0],
        eot_id=text["eos_id"] if text["pool_type"] == "eos" else None,
    )
    check_heads(config, where)
    return config


def read_image_settings(content: Mapping, where: str = CONFIG) -> ImageSettings:
    """Returns the image settings in the contents of an open_clip_config.json; CLIP's are the defaults.

    The image size is that of the model, as in OpenCLIP, and is left to `read_config`.

    Raises:
      UserError: a value is invalid or unknown.
    """
    settings = content.get("preprocess_cfg")
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise UserError(f"{where}: preprocess_cfg is not a set of keys; restore the original file")
    for key in settings:
        if key not in PREPROCESS:
            raise UserError(f"{where}: preprocess_cfg.{key} is unknown to this version; {SUPPORTED}")
    if settings.get("mode") not in (None, "RGB"):
        raise UserError(f"{where}: preprocess_cfg.mode is {settings['mode']!r}, expected 'RGB'")
    where = f"{where}: preprocess_cfg"
    default = ImageSettings()
    ignored = []
    if (interpolation := settings.get("interpolation") or "bicubic") not in BILINEAR_NAMES:
        ignored.append(f"interpolation={interpolation}")
    if (resize := settings.get("resize_mode") or "shortest") != "squash":
        ignored.append(f"resize_mode={resize}")
    return ImageSettings(
        None,
        channels(settings, "mean", where) or default.mean,
        channels(settings, "std", where, positive=True) or default.std,
        unfollowed(ignored, None, where),
    )


def _check_kind(model: Mapping, where: str) -> None:
    """Names the models of other architectures, which differ in many settings at once.

    Raises:
      UserError: it is such a model.
    """
    vision, text = (model.get(key) for key in ("vision_cfg", "text_cfg"))
    vision, text = (section if isinstance(section, Mapping) else {} for section in (vision, text))
    if not is_off(model.get("multimodal_cfg")):
        raise UserError(f"{where}: multimodal_cfg: is a CoCa, which is not supported; {SUPPORTED}")
    if not is_off(name := vision.get("timm_model_name")):
        kind, remedy = next(
            (known for part, known in TIMM_FAMILIES.items() if part in str(name)),
            ("a vision tower of the package timm", SUPPORTED),
        )
        raise UserError(f"{where}: timm_model_name {name!r}: is {kind}, which is not supported; {remedy}")
    if not is_off(name := text.get("hf_model_name")):
        raise UserError(
            f"{where}: hf_model_name {name!r}: is a text tower of Hugging Face's, which is not supported; "
            f"{SUPPORTED}"
        )


def _read(section: Mapping, settings: Mapping[str, Setting], name: str, where: str) -> dict[str, Any]:
    """Returns the values of a section's settings.

    Raises:
      UserError: a key is unknown or missing, or a value is not accepted.
    """
    for key in section:
        if key not in settings:
            raise UserError(
                f"{where}: {name}.{key}={section[key]!r} is unknown to this version and may change the "
                f"features; {SUPPORTED}"
            )
    values = {}
    for key, setting in settings.items():
        value = section.get(key)
        values[key] = setting.default if value is None else value
        if not setting.accepts(values[key]):
            shown = f"{where}: {name}.{key}={values[key]!r}"
            if setting.meaning:
                raise UserError(f"{shown}: is {setting.meaning}, which is not supported; {SUPPORTED}")
            raise UserError(f"{shown} is missing or invalid; restore the original file")
    return values


def _is_eps(value: object) -> bool:
    """Returns whether keyword arguments of a normalization are only its epsilon."""
    return isinstance(value, Mapping) and value.keys() == {"eps"} and is_positive(value["eps"])


def _as_pair(value: Any) -> list:
    return value if isinstance(value, list) else [value, value]


def _is_pair(value: object) -> bool:
    sides = _as_pair(value)
    return len(sides) == 2 and all(map(is_count, sides))


def _is_square(value: object) -> bool:
    return _is_pair(value) and len(set(_as_pair(value))) == 1
