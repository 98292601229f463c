"""The authors' checkpoints of DM-Adapter, UP-Person, CSKT and IRRA: into our models and back."""

import inspect
import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from tpr_jax.errors import ArgumentError, UserError
from tpr_jax.models import methods
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.heads import NO_HEADS, Heads
from tpr_jax.models.methods import Method
from tpr_jax.models.petl_config import ROUTERS
from tpr_jax.utils.trees import flatten
from tpr_jax.weights import arguments
from tpr_jax.weights.name_maps import from_names, to_names
from tpr_jax.weights.openai import from_openai
from tpr_jax.weights.reference_names import DEAD, READ_BY, ROUTER, canonical, clip_weights, method_weights
from tpr_jax.weights.state_dict import unwrap_names

BLOCK = r"base_model\.(visual\.)?transformer\.resblocks\.(\d+)\."
# Which names are a method's own; the others are CLIP's.
OWN = {
    "dm_adapter": BLOCK
    + r"(ln_3\.(weight|bias)|task_param|feed_forward\.(alpha|(input|task)_gate\.weight|"
    + r"experts\.\d+\.(down|up)\.(weight|bias)))",
    "up_person": r"(LORA_learner|(vit|text)_prefix_learner)\..*|"
    + BLOCK
    + r"(adapter_ln_(msa|mlp)\.(down|up)\.(weight|bias)|scale_[12])",
    "cskt": r"prompt_learner\..*|" + BLOCK + r"(ln_3|adapter_mlp\.(down|up))\.(weight|bias)",
    "irra": r"(classifier|cross_attn|cross_modal_transformer|ln_pre_[ti]|ln_post|mlm_head)\..*",
}


def split(state: dict, method: str) -> tuple[dict, dict]:
    """(CLIP's part under OpenAI's names, the method's part under its own), dead parameters dropped.

    What is neither is left in CLIP's part, where its loader names it as surplus.
    """
    if not isinstance(method, str) or method not in OWN:
        raise UserError(f"method {method!r} has no reference checkpoints here: choose from: {', '.join(OWN)}")
    clip, own = {}, {}
    for name, array in unwrap_names(state, "the checkpoint").items():
        full = canonical(name)
        short = full.removeprefix("base_model.")
        if short == "logit_scale" or re.fullmatch(DEAD[method], short):
            continue
        mine = next((n for n in (full, f"base_model.{full}") if re.fullmatch(OWN[method], n)), None)
        (own if mine else clip)[mine or short] = _as_float32(name, array)
    return clip, own


def _as_float32(name: str, array) -> np.ndarray:
    try:
        found = np.asarray(array)
        if found.dtype.kind not in "biufV":
            raise TypeError(f"{found.dtype}")
        return found.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"weight {name!r} is not an array of numbers ({error})") from error


def read(state: dict, *, method: str, image_size=None, **settings) -> tuple[ClipConfig, Method, Heads, dict]:
    """An authors' state dict -> (ClipConfig, Method, Heads, variables in NumPy).

    Sizes are read from the shapes; `settings` are those of the method in `models.methods`. What the shapes
    tell need not be given, and has to agree if it is; what they cannot tell (`top_k`, `router`, `scales`) has
    the method's own default. A `depth_...` of UP-Person narrower than the checkpoint's drops the rest.

    Raises:
      UserError: a weight is missing, unknown or misshapen, or a setting is unknown or disagrees with the
        weights.
    """
    if not isinstance(state, Mapping) or not state:
        raise ArgumentError(f"state must be a dict, weight name -> NumPy array, not {_described(state)}")
    image_size = arguments.check_image_size(image_size)
    clip, own = split(state, method)
    known = list(inspect.signature(methods.METHODS[method]).parameters)
    for name, value in settings.items():
        if name not in known:
            raise UserError(f"setting {name!r} is unknown: known are {', '.join(known) or 'none'}")
        arguments.check_setting(name, value)
    config, params = from_openai(clip, image_size=image_size, grid=_trained_grid(clip, image_size))
    own, found, heads = FIND[method](own, config, settings)
    for name, value in settings.items():
        value = tuple(value) if isinstance(value, list) else value
        if found.get(name, value) != value:
            raise UserError(f"{name}={value} was asked for, but the weights have {name}={found[name]}")
    try:
        made = methods.METHODS[method](**{**settings, **found})
    except (AttributeError, TypeError, ValueError) as error:
        raise ArgumentError(f"a setting of {method!r} is of the wrong kind: {error}") from error
    methods.check(made, config)
    variables = from_names(own, method_weights(made, config, heads), where="the checkpoint")
    return config, made, heads, {"params": params, **variables}


def load(state: dict, *, method: str, image_size=None, dtype: str = "float32", **settings):
    """A `tpr_jax.model.Model` of an authors' state dict: NumPy arrays under the authors' parameter names.

    `image_size` is (height, width): a position embedding of another grid is resized to it. `settings` are the
    method's, as for `read`. The features are those of the authors' code.

    Raises:
      UserError: a weight is missing, unknown or misshapen, or a setting disagrees with the weights.
    """
    from tpr_jax.model import make_model, matching_tokenizer

    dtype = arguments.check_dtype(dtype)
    config, found, heads, variables = read(state, method=method, image_size=image_size, **settings)
    source = f"reference checkpoint of {method}"
    tokenizer = matching_tokenizer(config)
    return make_model(config, found, variables, tokenizer=tokenizer, source=source, dtype=dtype, heads=heads)


def state(variables: dict, method: Method, config: ClipConfig, heads: Heads = NO_HEADS) -> dict:
    """Our collections, or as many leaves of them as there are -> the authors' names (NumPy).

    For a whole model, and for its trainable part and gradients.
    """
    there = flatten(variables)
    weights = [*clip_weights(config), *method_weights(method, config, heads)]
    return to_names(variables, [weight for weight in weights if weight.path in there])


# What the shapes of a method's own weights tell: (the weights in use, its settings, its heads).


def _find_dm_adapter(own: dict, config: ClipConfig, asked: dict) -> tuple[dict, dict, Heads]:
    router = asked.get("router", "blend")
    if router not in READ_BY:
        raise UserError(f"router={router!r} is unknown: known are {', '.join(ROUTERS)}")
    unread = tuple(ROUTER[leaf] for leaf in ROUTER if leaf not in READ_BY[router])
    own = {name: array for name, array in own.items() if not name.endswith(unread)}
    experts = len(_take(own, "base_model.visual.transformer.resblocks.0." + ROUTER["w_in"]))
    reduction = _reduction(config, own, "feed_forward.experts.0.down.bias", asked)
    return own, {"num_experts": experts, "reduction": reduction}, NO_HEADS


def _find_up_person(own: dict, config: ClipConfig, asked: dict) -> tuple[dict, dict, Heads]:
    found: dict = {"use": tuple(asked.get("use", ("prefix", "lora", "adapter")))}
    has = {
        "prefix": "vit_prefix_learner.",
        "lora": "LORA_learner.",
        "adapter": "base_model.visual.transformer.",
    }
    present = tuple(part for part in found["use"] if any(name.startswith(has[part]) for name in own))
    found["use"] = present if "use" not in asked else found["use"]
    layers = max(config.vision_layers, config.text_layers)
    for part, key, pattern in (
        ("lora", "depth_lora", r"LORA_learner\.lora_(?:image|text)\.(\d+)\..*"),
        ("prefix", "depth_prefix", r"(?:vit|text)_prefix_learner\.\w+\.(\d+)\..*"),
    ):
        if part in present:
            end = 1 + max(int(m[1]) for m in (re.fullmatch(pattern, name) for name in own) if m)
            end = min(end, layers)  # what lies beyond has no place, and is named as surplus
            wanted = asked.get(key)
            if wanted is not None and wanted < end:
                own = _without_blocks(own, pattern, lambda block, wanted=wanted: block >= wanted)
                end = wanted
            # All of a tower's blocks is `None`, whatever their number.
            found[key] = wanted if wanted == end else None if end == layers else end
    if "lora" in present:
        found["rank"] = len(_take(own, "LORA_learner.lora_image.0.lora_A.0"))
    if "prefix" in present:
        found["prefix"] = len(_take(own, "vit_prefix_learner.vit_prefix.0.key.tokens"))
        found["vanilla"] = not any(name.endswith("scale_to_grad") for name in own)
    if "adapter" in present:
        pattern = BLOCK.replace("(visual", "(?:visual") + r"(?:adapter_ln_|scale_).*"
        first = min(int(m[1]) for m in (re.fullmatch(pattern, name) for name in own) if m)
        if (wanted := asked.get("depth_adapter", first)) > first:
            own = _without_blocks(own, pattern, lambda block: block < wanted)
            first = wanted
        found["depth_adapter"] = first
        found["reduction"] = _reduction(config, own, "adapter_ln_msa.down.bias", asked, first)
    return own, found, NO_HEADS


def _without_blocks(own: dict, pattern: str, left_out: Callable[[int], bool]) -> dict:
    """The weights without those that `pattern`, its first group a block's number, finds in such blocks."""
    found = {name: re.fullmatch(pattern, name) for name in own}
    return {n: a for n, a in own.items() if not (found[n] and left_out(int(found[n][1])))}


def _find_cskt(own: dict, config: ClipConfig, asked: dict) -> tuple[dict, dict, Heads]:
    deep = sum(name.startswith("prompt_learner.compound_prompts_text.") for name in own)
    found = {
        "prompts": len(_take(own, "prompt_learner.ctx")),
        "depth": deep + 1,
        "reduction": _reduction(config, own, "adapter_mlp.down.bias", asked),
    }
    return own, found, NO_HEADS


def _find_irra(own: dict, config: ClipConfig, asked: dict) -> tuple[dict, dict, Heads]:
    blocks = {name.split(".")[2] for name in own if name.startswith("cross_modal_transformer.")}
    depth = next(i for i in range(len(blocks) + 1) if str(i) not in blocks)
    return own, {}, Heads(len(own.get("classifier.bias", ())), depth)


FIND = {
    "dm_adapter": _find_dm_adapter,
    "up_person": _find_up_person,
    "cskt": _find_cskt,
    "irra": _find_irra,
}


def _described(state) -> str:
    return "an empty one" if isinstance(state, Mapping) else type(state).__name__


def _reduction(config: ClipConfig, own: dict, leaf: str, asked: dict, block: int = 0) -> int:
    """The reduction by which the widths of both towers, rounded down, give the lengths of `leaf` there; where
    several do, the one that is asked for, else the largest."""

    def rank(stem):
        return len(own.get(f"base_model.{stem}transformer.resblocks.{block}.{leaf}", ()))

    d, vision, text = config.vision_width, rank("visual."), rank("")
    by_vision = [x for x in range(1, d + 1) if d // x == vision]
    fitting = [x for x in by_vision if config.text_width // x == text] or by_vision or [1]
    return asked["reduction"] if asked.get("reduction") in fitting else fitting[-1]


def _trained_grid(clip: dict, image_size) -> tuple[int, int] | None:
    """Rows and columns of a checkpoint's position embedding: those of `image_size` where the number agrees,
    else a square, else the tall 3:1 or 2:1 of person photos; None leaves it to CLIP's own loader to complain.
    """
    position, conv = clip.get("visual.positional_embedding"), clip.get("visual.conv1.weight")
    if position is None or conv is None:
        return None
    count = len(position) - 1
    if image_size:
        asked = image_size[0] // conv.shape[-1], image_size[1] // conv.shape[-1]
        if asked[0] * asked[1] == count:
            return asked
    for ratio in (1, 3, 2):
        side = math.isqrt(count // ratio)
        if ratio * side * side == count:
            return ratio * side, side
    return None


def _take(own: dict, name: str) -> np.ndarray:
    if name not in own:
        raise UserError(f"the checkpoint lacks the weight '{name}'")
    return own[name]
