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
PREFIX = "base_model."
BLOCK = r"(visual\.)?transformer\.resblocks\.(\d+)\."
PARTS = {
    "dm_adapter": BLOCK
    + r"(ln_3\.(weight|bias)|task_param|feed_forward\.(alpha|(input|task)_gate\.weight|"
    + r"experts\.\d+\.(down|up)\.(weight|bias)))",
}
# Our name of each of a router's leaves -> theirs, and the leaves that each kind of router reads.
ROUTER = {
    "w_in": "feed_forward.input_gate.weight",
    "w_task": "feed_forward.task_gate.weight",
    "prompt": "task_param",
    "alpha": "feed_forward.alpha",
}
READ_BY = {"blend": tuple(ROUTER), "sum": ("w_in", "w_task", "prompt"), "input": ("w_in",)}
SETTINGS = ("num_experts", "top_k", "reduction", "router", "scales")


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


def dm_adapter_tree(parts: dict, router: str = "blend") -> dict:
    """The authors' DM-Adapter names -> our collection `moe` (NumPy, float32).

    What the `router` ('blend', 'sum' or 'input') does not read is left out, as in our tree.
    """
    tree: dict = {"visual": {}, "text": {}}
    for tower, block in _blocks(parts):
        own = _of_block(parts, tower, block)
        count = len(_take(own, ROUTER["w_in"]))

        def stacked(leaf, own=own, count=count):
            return [_take(own, f"feed_forward.experts.{i}.{leaf}") for i in range(count)]

        tree[tower][f"block_{block}"] = {
            "beside_mlp": {
                "ln_3": {"scale": _take(own, "ln_3.weight"), "bias": _take(own, "ln_3.bias")},
                # The gates are Linears, (out, in); transposing leaves vectors and scalars alone.
                "router": {leaf: _take(own, ROUTER[leaf]).T for leaf in READ_BY[router]},
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
            state |= {stem + ROUTER[leaf]: np.transpose(array) for leaf, array in own["router"].items()}
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

    Raises:
      UserError: a weight is missing, unknown or misshapen, or a setting is unknown or disagrees with the
        weights.
    """
    clip, parts = split(state, method)
    config, params = from_openai(clip, image_size=image_size, grid=_trained_grid(clip, image_size))
    router = settings.get("router", "blend")
    if router not in READ_BY:
        raise UserError(f"router={router!r} is unknown: known are {', '.join(READ_BY)}")
    found = _check_parts(parts, config, router, settings.get("reduction"))
    for name, value in settings.items():
        if name not in SETTINGS:
            raise UserError(f"setting {name!r} is unknown: known are {', '.join(SETTINGS)}")
        if found.get(name, value) != value:
            raise UserError(f"{name}={value} was asked for, but the weights have {name}={found[name]}")
    found_method = methods.dm_adapter(**{**settings, **found})
    top_k = found_method.vision.beside_mlp.top_k
    if not 1 <= top_k <= found["num_experts"]:
        raise UserError(
            f"top_k={top_k} must lie between 1 and the {found['num_experts']} experts of the weights"
        )
    return config, found_method, {"params": params, "moe": dm_adapter_tree(parts, router)}


def _check_parts(parts: dict, config, router: str, asked: int | None) -> dict:
    """`num_experts` and `reduction` of the first block; any other block that disagrees is an error."""
    first = _of_block(parts, "visual", 0)
    experts = len(_take(first, ROUTER["w_in"]))
    _take(first, "feed_forward.experts.0.down.bias")
    reduction = _reduction(config, parts, asked)
    expected = {}
    for stem, layers, d in (
        ("visual.", config.vision_layers, config.vision_width),
        ("", config.text_layers, config.text_width),
    ):
        r = d // reduction
        own = {"ln_3.weight": (d,), "ln_3.bias": (d,)}
        shapes = {"w_in": (experts, d), "w_task": (experts, d), "prompt": (d,), "alpha": ()}
        own |= {ROUTER[leaf]: shapes[leaf] for leaf in ROUTER}
        for i in range(experts):
            for leaf, shape in {
                "down.weight": (r, d),
                "down.bias": (r,),
                "up.weight": (d, r),
                "up.bias": (d,),
            }.items():
                own[f"feed_forward.experts.{i}.{leaf}"] = shape
        for i in range(layers):
            expected |= {f"{stem}transformer.resblocks.{i}.{name}": shape for name, shape in own.items()}
    unread = tuple(ROUTER[leaf] for leaf in ROUTER if leaf not in READ_BY[router])
    for name in sorted(expected.keys() | parts.keys()):
        if name not in expected:
            raise UserError(
                f"the checkpoint has the weight '{name}', which no block of this model has a place for"
            )
        if name not in parts:
            if name.endswith(unread):
                continue
            raise UserError(f"the checkpoint lacks the weight '{name}'")
        if parts[name].shape != expected[name]:
            found, wanted = list(parts[name].shape), list(expected[name])
            raise UserError(f"the weight '{name}' has shape {found}, expected {wanted}")
    return {"num_experts": experts, "reduction": reduction}


def _reduction(config, parts: dict, asked: int | None) -> int:
    """The reduction by which the widths of both towers, rounded down, give those of their experts; where
    several do, the one that is `asked` for, else the largest."""

    def rank(stem):
        return len(parts.get(stem + "transformer.resblocks.0.feed_forward.experts.0.down.bias", ()))

    d, vision, text = config.vision_width, rank("visual."), rank("")
    by_vision = [x for x in range(1, d + 1) if d // x == vision]
    fitting = [x for x in by_vision if config.text_width // x == text] or by_vision or [1]
    return asked if asked in fitting else fitting[-1]


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
