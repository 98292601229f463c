"""The authors' checkpoints: their names and layouts on one side, our trees on the other."""

import math
import re

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models import methods
from tpr_jax.weights.openai import from_openai

# Declared by the authors' code, read by no computation.
DEAD = {
    "dm_adapter": r"(vision_param|text_param|co_vision_param|v2i_proj\.(weight|bias))",
}
# What else a checkpoint may hold: the fixed temperature.
PREFIX = "base_model."
BLOCK = r"(visual\.)?transformer\.resblocks\.(\d+)\."
PARTS = {
    "dm_adapter": BLOCK
    + r"(ln_3\.(weight|bias)|task_param|feed_forward\.(alpha|(input|task)_gate\.weight|"
    + r"experts\.\d+\.(down|up)\.(weight|bias)))",
}


def split(state: dict, method: str) -> tuple[dict, dict]:
    """(CLIP's part under OpenAI's names, the method's part), dead parameters dropped.

    What is neither is left in CLIP's part, where its loader names it as surplus.
    """
    if method not in PARTS:
        raise UserError(f"method '{method}' has no reference checkpoints here: known are {', '.join(PARTS)}")
    clip, parts = {}, {}
    for name, array in state.items():
        short = name.removeprefix("module.").removeprefix(PREFIX)
        if short == "logit_scale" or re.fullmatch(DEAD[method], short):
            continue
        (parts if re.fullmatch(PARTS[method], short) else clip)[short] = np.asarray(array, np.float32)
    return clip, parts


def dm_adapter_tree(parts: dict) -> dict:
    """The authors' DM-Adapter names -> our collection `moe` (NumPy, float32)."""
    tree: dict = {"visual": {}, "text": {}}
    for tower, block in _blocks(parts):
        own = _of_block(parts, tower, block)
        count = 1 + max(int(m[1]) for m in (re.match(r"feed_forward\.experts\.(\d+)\.", k) for k in own) if m)

        def stacked(leaf, own=own, count=count):
            return [_take(own, f"feed_forward.experts.{i}.{leaf}") for i in range(count)]

        tree[tower][f"block_{block}"] = {
            "beside_mlp": {
                "ln_3": {"scale": _take(own, "ln_3.weight"), "bias": _take(own, "ln_3.bias")},
                "router": {
                    "w_in": _take(own, "feed_forward.input_gate.weight").T,
                    "w_task": _take(own, "feed_forward.task_gate.weight").T,
                    "prompt": _take(own, "task_param"),
                    "alpha": _take(own, "feed_forward.alpha"),
                },
                # Theirs: one Linear (out, in) an expert. Ours: down [d, e, r], up [e, r, d].
                "down": {
                    "kernel": np.stack([w.T for w in stacked("down.weight")], axis=1),
                    "bias": np.stack(stacked("down.bias")),
                },
                "up": {
                    "kernel": np.stack([w.T for w in stacked("up.weight")]),
                    "bias": np.stack(stacked("up.bias")),
                },
            }
        }
    return tree


def dm_adapter_state(tree: dict) -> dict:
    """Our collection `moe` -> the authors' DM-Adapter names; the way back of `dm_adapter_tree`."""
    state = {}
    for tower, blocks in tree.items():
        for block, slot in blocks.items():
            own = slot["beside_mlp"]
            stem = PREFIX + ("visual." if tower == "visual" else "")
            stem += f"transformer.resblocks.{block.removeprefix('block_')}."
            state[stem + "ln_3.weight"], state[stem + "ln_3.bias"] = own["ln_3"]["scale"], own["ln_3"]["bias"]
            state[stem + "task_param"] = own["router"]["prompt"]
            state[stem + "feed_forward.alpha"] = own["router"]["alpha"]
            state[stem + "feed_forward.input_gate.weight"] = own["router"]["w_in"].T
            state[stem + "feed_forward.task_gate.weight"] = own["router"]["w_task"].T
            for i in range(own["up"]["kernel"].shape[0]):
                expert = f"{stem}feed_forward.experts.{i}."
                state[expert + "down.weight"] = own["down"]["kernel"][:, i].T
                state[expert + "down.bias"] = own["down"]["bias"][i]
                state[expert + "up.weight"] = own["up"]["kernel"][i].T
                state[expert + "up.bias"] = own["up"]["bias"][i]
    return {name: np.asarray(array) for name, array in state.items()}


STATES = {"dm_adapter": dm_adapter_state}


def state(trainable: dict, method: str) -> dict:
    """The trainable collections of a method -> the authors' names (NumPy), for parameters and gradients."""
    return STATES[method](trainable["moe"])


def read(state: dict, *, method: str, image_size=None, **settings):
    """An authors' state dict -> (ClipConfig, Method, variables in NumPy).

    `settings` are the method's (`top_k`, `router`, `scales`); the number of experts and the reduction are
    read from the shapes, and a setting that disagrees with them is an error.
    """
    clip, parts = split(state, method)
    config, params = from_openai(clip, image_size=image_size, grid=_trained_grid(clip, image_size))
    moe = dm_adapter_tree(parts)
    shape = moe["visual"]["block_0"]["beside_mlp"]["down"]["kernel"].shape
    found = {"num_experts": shape[1], "reduction": shape[0] // shape[2]}
    for name, value in found.items():
        if settings.get(name, value) != value:
            raise UserError(f"{name}={settings[name]} was asked for, but the weights have {name}={value}")
    method = methods.dm_adapter(**{**settings, **found})
    return config, method, {"params": params, "moe": moe}


def load(state: dict, *, method: str, image_size=None, dtype: str = "float32", **settings):
    """A `tpr_jax.model.Model` of an authors' state dict: NumPy arrays under the authors' parameter names.

    `image_size` is (height, width): a position embedding of another grid is resized to it. `settings` are the
    method's, as for `read`. The features are those of the authors' code.

    Raises:
      UserError: a weight is missing, unknown or misshapen, or a setting disagrees with the weights.
    """
    from tpr_jax.model import make_model, matching_tokenizer

    config, found, variables = read(state, method=method, image_size=image_size, **settings)
    source = f"reference checkpoint of {method}"
    tokenizer = matching_tokenizer(config)
    return make_model(config, found, variables, tokenizer=tokenizer, source=source, dtype=dtype)


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


def _blocks(parts: dict) -> list[tuple[str, int]]:
    found = {(m[1], int(m[2])) for m in (re.match(BLOCK, name) for name in parts) if m}
    return sorted(("visual" if visual else "text", block) for visual, block in found)


def _of_block(parts: dict, tower: str, block: int) -> dict:
    stem = ("visual." if tower == "visual" else "") + f"transformer.resblocks.{block}."
    return {name.removeprefix(stem): array for name, array in parts.items() if name.startswith(stem)}


def _take(own: dict, name: str) -> np.ndarray:
    if name not in own:
        raise UserError(f"the checkpoint lacks the weight '...{name}'")
    return own[name]
