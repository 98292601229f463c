"""Converts the authors' checkpoints of DM-Adapter, UP-Person, CSKT and IRRA to our models and back."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tpr_jax.errors import ArgumentError, UserError
from tpr_jax.models import methods
from tpr_jax.models.config import NO_HEADS, ClipConfig, Heads
from tpr_jax.models.methods import Method
from tpr_jax.models.petl_config import ROUTERS
from tpr_jax.utils.trees import flatten
from tpr_jax.weights import arguments
from tpr_jax.weights.name_maps import from_names, to_names
from tpr_jax.weights.openai import from_openai
from tpr_jax.weights.reference_names import DEAD, READ_BY, ROUTER, canonical, clip_weights, method_weights
from tpr_jax.weights.state_dict import unwrap_names

if TYPE_CHECKING:
    from tpr_jax.model import Model

BLOCK = r"base_model\.(visual\.)?transformer\.resblocks\.(\d+)\."
# The names that belong to a method; the others are CLIP's.
METHOD_NAMES = {
    "dm_adapter": BLOCK
    + r"(ln_3\.(weight|bias)|task_param|feed_forward\.(alpha|(input|task)_gate\.weight|"
    + r"experts\.\d+\.(down|up)\.(weight|bias)))",
    "up_person": r"(LORA_learner|(vit|text)_prefix_learner)\..*|"
    + BLOCK
    + r"(adapter_ln_(msa|mlp)\.(down|up)\.(weight|bias)|scale_[12])",
    "cskt": r"prompt_learner\..*|" + BLOCK + r"(ln_3|adapter_mlp\.(down|up))\.(weight|bias)",
    "irra": r"(classifier|cross_attn|cross_modal_transformer|ln_pre_[ti]|ln_post|mlm_head)\..*",
}


def split(state: Mapping[str, np.ndarray], method: str) -> tuple[dict, dict]:
    """Splits a checkpoint into CLIP's weights under OpenAI's names and the method's under the authors' names.

    Parameters that no computation reads are dropped. Unknown names stay with CLIP's weights, whose loader
    reports them.
    """
    if not isinstance(method, str) or method not in METHOD_NAMES:
        raise UserError(
            f"method {method!r} has no reference checkpoints here: choose from: {', '.join(METHOD_NAMES)}"
        )
    clip_state, method_state = {}, {}
    for name, array in unwrap_names(state, "the checkpoint").items():
        full = canonical(name)
        short = full.removeprefix("base_model.")
        if short == "logit_scale" or re.fullmatch(DEAD[method], short):
            continue
        candidates = (full, f"base_model.{full}")
        method_name = next((n for n in candidates if re.fullmatch(METHOD_NAMES[method], n)), None)
        target = method_state if method_name else clip_state
        target[method_name or short] = _as_float32(name, array)
    return clip_state, method_state


def _as_float32(name: str, array) -> np.ndarray:
    try:
        array = np.asarray(array)
        if array.dtype.kind not in "biufV":
            raise TypeError(f"{array.dtype}")
        return array.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"weight {name!r} is not an array of numbers ({error})") from error


def read(
    state: Mapping[str, np.ndarray],
    *,
    method: str,
    image_size: tuple[int, int] | None = None,
    **settings,
) -> tuple[ClipConfig, Method, Heads, dict]:
    """Converts an authors' state dict to sizes, method, heads and variables in NumPy.

    Args:
      state: the authors' parameter name -> array.
      method: "dm_adapter", "up_person", "cskt" or "irra".
      image_size: (height, width) in pixels, to which the position embedding is resized.
      **settings: those of the method in `models.methods`. A setting that the shapes determine may be left out
        and must agree with them; `top_k`, `router` and `scales` have the method's defaults. A smaller
        `depth_...` of UP-Person than the checkpoint's drops the remaining blocks.

    Raises:
      UserError: a weight is missing, unknown or misshapen, or a setting is unknown or disagrees with the
        weights.
    """
    if not isinstance(state, Mapping) or not state:
        raise ArgumentError(f"state must be a dict, weight name -> NumPy array, not {_describe(state)}")
    image_size = arguments.check_image_size(image_size)
    clip_state, method_state = split(state, method)
    known = list(inspect.signature(methods.METHODS[method]).parameters)
    for name, value in settings.items():
        if name not in known:
            raise UserError(f"setting {name!r} is unknown: choose from: {', '.join(known) or 'none'}")
        arguments.check_setting(name, value)
    grid = infer_grid(clip_state, image_size)
    config, params = from_openai(clip_state, image_size=image_size, grid=grid)
    method_state, inferred, heads = INFER[method](method_state, config, settings)
    for name, value in settings.items():
        value = tuple(value) if isinstance(value, list) else value
        if inferred.get(name, value) != value:
            raise UserError(f"{name}={value} was requested, but the weights have {name}={inferred[name]}")
    try:
        spec = methods.METHODS[method](**{**settings, **inferred})
    except (AttributeError, TypeError, ValueError) as error:
        raise ArgumentError(f"a setting of {method!r} has the wrong type: {error}") from error
    methods.check(spec, config)
    variables = from_names(method_state, method_weights(spec, config, heads), where="the checkpoint")
    return config, spec, heads, {"params": params, **variables}


def load(
    state: Mapping[str, np.ndarray],
    *,
    method: str,
    image_size: tuple[int, int] | None = None,
    dtype: str = "float32",
    **settings,
) -> "Model":
    """Loads an authors' state dict as a `tpr_jax.model.Model` with the features of the authors' code.

    Args:
      state: the authors' parameter name -> NumPy array.
      method: "dm_adapter", "up_person", "cskt" or "irra".
      image_size: (height, width) in pixels, to which the position embedding is resized.
      dtype: the type that the towers compute in.
      **settings: those of the method, as for `read`.

    Raises:
      UserError: a weight is missing, unknown or misshapen, or a setting disagrees with the weights.
    """
    # Imported here: the model is a layer above the weights.
    from tpr_jax.model import make_model, matching_tokenizer

    dtype = arguments.check_dtype(dtype)
    config, spec, heads, variables = read(state, method=method, image_size=image_size, **settings)
    source = f"reference checkpoint of {method}"
    tokenizer = matching_tokenizer(config)
    return make_model(config, spec, variables, tokenizer=tokenizer, source=source, dtype=dtype, heads=heads)


def state(variables: dict, method: Method, config: ClipConfig, heads: Heads = NO_HEADS) -> dict:
    """Converts variables, or a subset of their leaves such as gradients, to the authors' names (NumPy)."""
    paths = flatten(variables)
    weights = [*clip_weights(config), *method_weights(method, config, heads)]
    return to_names(variables, [weight for weight in weights if weight.path in paths])


# Each function takes a method's weights, CLIP's sizes and the user's settings. It returns the weights in use,
# the settings that their shapes determine, and the heads.


def _infer_dm_adapter(weights: dict, config: ClipConfig, requested: dict) -> tuple[dict, dict, Heads]:
    router = requested.get("router", "blend")
    if router not in READ_BY:
        raise UserError(f"router={router!r} is unknown: choose from: {', '.join(ROUTERS)}")
    unread = tuple(ROUTER[leaf] for leaf in ROUTER if leaf not in READ_BY[router])
    weights = {name: array for name, array in weights.items() if not name.endswith(unread)}
    experts = len(_take(weights, "base_model.visual.transformer.resblocks.0." + ROUTER["w_in"]))
    reduction = _reduction(config, weights, "feed_forward.experts.0.down.bias", requested)
    return weights, {"num_experts": experts, "reduction": reduction}, NO_HEADS


def _infer_up_person(weights: dict, config: ClipConfig, requested: dict) -> tuple[dict, dict, Heads]:
    inferred: dict = {"use": tuple(requested.get("use", ("prefix", "lora", "adapter")))}
    has = {
        "prefix": "vit_prefix_learner.",
        "lora": "LORA_learner.",
        "adapter": "base_model.visual.transformer.",
    }
    present = tuple(part for part in inferred["use"] if any(name.startswith(has[part]) for name in weights))
    inferred["use"] = present if "use" not in requested else inferred["use"]
    layers = max(config.vision_layers, config.text_layers)
    for part, key, pattern in (
        ("lora", "depth_lora", r"LORA_learner\.lora_(?:image|text)\.(\d+)\..*"),
        ("prefix", "depth_prefix", r"(?:vit|text)_prefix_learner\.\w+\.(\d+)\..*"),
    ):
        if part in present:
            end = 1 + max(int(m[1]) for m in (re.fullmatch(pattern, name) for name in weights) if m)
            end = min(end, layers)  # blocks beyond are reported as surplus
            wanted = requested.get(key)
            if wanted is not None and wanted < end:
                weights = _without_blocks(weights, pattern, lambda block, wanted=wanted: block >= wanted)
                end = wanted
            # None stands for all blocks of a tower.
            inferred[key] = wanted if wanted == end else None if end == layers else end
    if "lora" in present:
        inferred["rank"] = len(_take(weights, "LORA_learner.lora_image.0.lora_A.0"))
    if "prefix" in present:
        inferred["prefix"] = len(_take(weights, "vit_prefix_learner.vit_prefix.0.key.tokens"))
        inferred["vanilla"] = not any(name.endswith("scale_to_grad") for name in weights)
    if "adapter" in present:
        pattern = BLOCK.replace("(visual", "(?:visual") + r"(?:adapter_ln_|scale_).*"
        first = min(int(m[1]) for m in (re.fullmatch(pattern, name) for name in weights) if m)
        if (wanted := requested.get("depth_adapter", first)) > first:
            weights = _without_blocks(weights, pattern, lambda block: block < wanted)
            first = wanted
        inferred["depth_adapter"] = first
        inferred["reduction"] = _reduction(config, weights, "adapter_ln_msa.down.bias", requested, first)
    return weights, inferred, NO_HEADS


def _without_blocks(state: dict, pattern: str, drop: Callable[[int], bool]) -> dict:
    """Drops the weights that match `pattern`, whose first group is a block's number that `drop` accepts."""

    def is_kept(name: str) -> bool:
        match = re.fullmatch(pattern, name)
        return match is None or not drop(int(match[1]))

    return {name: array for name, array in state.items() if is_kept(name)}


def _infer_cskt(weights: dict, config: ClipConfig, requested: dict) -> tuple[dict, dict, Heads]:
    deep = sum(name.startswith("prompt_learner.compound_prompts_text.") for name in weights)
    inferred = {
        "prompts": len(_take(weights, "prompt_learner.ctx")),
        "depth": deep + 1,
        "reduction": _reduction(config, weights, "adapter_mlp.down.bias", requested),
    }
    return weights, inferred, NO_HEADS


def _infer_irra(weights: dict, config: ClipConfig, requested: dict) -> tuple[dict, dict, Heads]:
    blocks = {name.split(".")[2] for name in weights if name.startswith("cross_modal_transformer.")}
    depth = next(i for i in range(len(blocks) + 1) if str(i) not in blocks)
    return weights, {}, Heads(len(weights.get("classifier.bias", ())), depth)


INFER = {
    "dm_adapter": _infer_dm_adapter,
    "up_person": _infer_up_person,
    "cskt": _infer_cskt,
    "irra": _infer_irra,
}


def _describe(state) -> str:
    return "an empty one" if isinstance(state, Mapping) else type(state).__name__


def _reduction(config: ClipConfig, state: dict, leaf: str, requested: dict, block: int = 0) -> int:
    """Infers the reduction from the bottleneck widths, the lengths of `leaf` in both towers.

    If several reductions give these widths, returns the requested one if it is among them, else the largest.
    """

    def bottleneck(tower: str) -> int:
        return len(state.get(f"base_model.{tower}transformer.resblocks.{block}.{leaf}", ()))

    d, vision, text = config.vision_width, bottleneck("visual."), bottleneck("")
    by_vision = [x for x in range(1, d + 1) if d // x == vision]
    candidates = [x for x in by_vision if config.text_width // x == text] or by_vision or [1]
    return requested["reduction"] if requested.get("reduction") in candidates else candidates[-1]


def infer_grid(clip_state: dict, image_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Infers the rows and columns of a checkpoint's position embedding.

    Tries the grid of `image_size`, a square, and the 3:1 and 2:1 of person photos. Returns None if none of
    them has as many patches; CLIP's loader then reports it.
    """
    position, conv = clip_state.get("visual.positional_embedding"), clip_state.get("visual.conv1.weight")
    if position is None or conv is None:
        return None
    count = len(position) - 1
    if image_size:
        grid = image_size[0] // conv.shape[-1], image_size[1] // conv.shape[-1]
        if grid[0] * grid[1] == count:
            return grid
    for ratio in (1, 3, 2):
        side = math.isqrt(count // ratio)
        if ratio * side * side == count:
            return ratio * side, side
    return None


def _take(weights: dict, name: str) -> np.ndarray:
    if name not in weights:
        raise UserError(f"the checkpoint lacks the weight '{name}'")
    return weights[name]
