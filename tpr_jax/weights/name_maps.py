"""CLIP's weights under three sets of names: ours, Hugging Face's and OpenAI's, all as NumPy arrays.

Ours is the tree of collection `params` that `tpr_jax.models.clip` reads: float32, linear kernels as
`[inputs, outputs]`, the patch convolution as `[height, width, 3, outputs]`, query, key, value side by side.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig

Params = dict[str, Any]  # a tree: each value is an array or again such a dict


class Weight(NamedTuple):
    """One of our arrays and where another format keeps it."""

    path: str  # ours, joined by "/"
    names: tuple[str, ...]  # theirs; several are laid side by side along our last axis, or stacked
    layout: str  # "same", "linear" (transposed) or "conv" (out, in, h, w -> h, w, in, out)
    shape: tuple[int, ...]  # theirs, of each name
    stack: int | None = None  # a new axis of ours, on which several are stacked


def hugging_face_weights(config: ClipConfig, grid: tuple[int, int]) -> list[Weight]:
    """Where Hugging Face's `CLIPModel` keeps each array, with a position embedding for `grid`."""
    d, w, e = config.vision_width, config.text_width, config.embed_dim
    p, v, n = config.patch_size, config.vocab_size, 1 + grid[0] * grid[1]
    vision, text = "vision_model.", "text_model."
    return [
        Weight("visual/class_embedding", (vision + "embeddings.class_embedding",), "same", (d,)),
        Weight("visual/conv1/kernel", (vision + "embeddings.patch_embedding.weight",), "conv", (d, 3, p, p)),
        Weight(
            "visual/positional_embedding",
            (vision + "embeddings.position_embedding.weight",),
            "same",
            (n, d),
        ),
        *_norm("visual/ln_pre", vision + "pre_layrnorm", d),
        *_hugging_face_blocks("visual", vision, config.vision_layers, d, config.vision_mlp),
        *_norm("visual/ln_post", vision + "post_layernorm", d),
        Weight("visual/proj", ("visual_projection.weight",), "linear", (e, d)),
        Weight(
            "text/token_embedding",
            (text + "embeddings.token_embedding.weight",),
            "same",
            (v, w),
        ),
        Weight(
            "text/positional_embedding",
            (text + "embeddings.position_embedding.weight",),
            "same",
            (config.context_length, w),
        ),
        *_hugging_face_blocks("text", text, config.text_layers, w, config.text_mlp),
        *_norm("text/ln_final", text + "final_layer_norm", w),
        Weight("text/proj", ("text_projection.weight",), "linear", (e, w)),
    ]


def openai_weights(config: ClipConfig, grid: tuple[int, int]) -> list[Weight]:
    """Where OpenAI's `CLIP` keeps each array, with a position embedding for `grid`."""
    d, w, e = config.vision_width, config.text_width, config.embed_dim
    p, v, n = config.patch_size, config.vocab_size, 1 + grid[0] * grid[1]
    return [
        Weight("visual/class_embedding", ("visual.class_embedding",), "same", (d,)),
        Weight("visual/conv1/kernel", ("visual.conv1.weight",), "conv", (d, 3, p, p)),
        Weight(
            "visual/positional_embedding",
            ("visual.positional_embedding",),
            "same",
            (n, d),
        ),
        *_norm("visual/ln_pre", "visual.ln_pre", d),
        *_openai_blocks("visual", "visual.", config.vision_layers, d, config.vision_mlp),
        *_norm("visual/ln_post", "visual.ln_post", d),
        Weight("visual/proj", ("visual.proj",), "same", (d, e)),
        Weight("text/token_embedding", ("token_embedding.weight",), "same", (v, w)),
        Weight("text/positional_embedding", ("positional_embedding",), "same", (config.context_length, w)),
        *_openai_blocks("text", "", config.text_layers, w, config.text_mlp),
        *_norm("text/ln_final", "ln_final", w),
        Weight("text/proj", ("text_projection",), "same", (w, e)),
    ]


def from_names(
    state: Mapping[str, np.ndarray],
    weights: list[Weight],
    *,
    ignore: frozenset[str] = frozenset(),
    where: str = "weights",
) -> Params:
    """Gathers `weights` out of `state` into our tree, in float32.

    Raises:
      UserError: a name is missing, is there but unknown (and not in `ignore`), or has another shape.
    """
    wanted = {name: weight.shape for weight in weights for name in weight.names}
    missing = [name for name in wanted if name not in state]
    surplus = sorted(set(state) - set(wanted) - ignore)
    if missing:
        raise UserError(
            f"{where}: weight {missing[0]!r} of shape {list(wanted[missing[0]])} is missing{_more(missing)}; "
            "is this the CLIP that the config describes?"
        )
    if surplus:
        shape = list(np.shape(state[surplus[0]]))
        raise UserError(
            f"{where}: weight {surplus[0]!r} of shape {shape} has no place in this CLIP{_more(surplus)}; "
            "remove it or use the matching config"
        )
    for name, shape in wanted.items():
        if np.shape(state[name]) != shape:
            raise UserError(
                f"{where}: weight {name!r} has shape {list(np.shape(state[name]))}, expected {list(shape)}; "
                "use the config that belongs to these weights"
            )
        if not np.isfinite(state[name]).all():
            raise UserError(f"{where}: weight {name!r} holds NaN or infinity; use weights that are whole")
    params: Params = {}
    for weight in weights:
        parts = [_to_ours(np.asarray(state[name]), weight.layout) for name in weight.names]
        if weight.stack is not None:
            whole = np.stack(parts, axis=weight.stack)
        else:
            whole = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        _put(params, weight.path, whole)
    return params


def to_names(params: Params, weights: list[Weight]) -> dict[str, np.ndarray]:
    """The inverse of `from_names`."""
    state = {}
    for weight in weights:
        whole = _get(params, weight.path)
        if weight.stack is not None:
            parts = np.moveaxis(whole, weight.stack, 0)
        elif whole.ndim:
            parts = np.split(whole, len(weight.names), axis=-1)
        else:
            parts = [whole]
        for name, part in zip(weight.names, parts, strict=True):
            state[name] = _to_theirs(part, weight.layout)
    return state


def _norm(ours: str, theirs: str, width: int) -> Iterator[Weight]:
    yield Weight(f"{ours}/scale", (f"{theirs}.weight",), "same", (width,))
    yield Weight(f"{ours}/bias", (f"{theirs}.bias",), "same", (width,))


def _linear(ours: str, theirs: tuple[str, ...], inputs: int, outputs: int) -> Iterator[Weight]:
    yield Weight(f"{ours}/kernel", tuple(f"{name}.weight" for name in theirs), "linear", (outputs, inputs))
    yield Weight(f"{ours}/bias", tuple(f"{name}.bias" for name in theirs), "same", (outputs,))


def _hugging_face_blocks(tower: str, prefix: str, layers: int, width: int, mlp: int) -> Iterator[Weight]:
    for i in range(layers):
        ours, theirs = f"{tower}/block_{i}", f"{prefix}encoder.layers.{i}"
        yield from _norm(f"{ours}/ln_1", f"{theirs}.layer_norm1", width)
        yield from _norm(f"{ours}/ln_2", f"{theirs}.layer_norm2", width)
        qkv = tuple(f"{theirs}.self_attn.{part}_proj" for part in "qkv")
        yield from _linear(f"{ours}/attn/qkv", qkv, width, width)
        yield from _linear(f"{ours}/attn/out", (f"{theirs}.self_attn.out_proj",), width, width)
        yield from _linear(f"{ours}/mlp/fc", (f"{theirs}.mlp.fc1",), width, mlp)
        yield from _linear(f"{ours}/mlp/proj", (f"{theirs}.mlp.fc2",), mlp, width)


def _openai_blocks(tower: str, prefix: str, layers: int, width: int, mlp: int) -> Iterator[Weight]:
    for i in range(layers):
        ours, theirs = f"{tower}/block_{i}", f"{prefix}transformer.resblocks.{i}"
        yield from _norm(f"{ours}/ln_1", f"{theirs}.ln_1", width)
        yield from _norm(f"{ours}/ln_2", f"{theirs}.ln_2", width)
        yield Weight(
            f"{ours}/attn/qkv/kernel", (f"{theirs}.attn.in_proj_weight",), "linear", (3 * width, width)
        )
        yield Weight(f"{ours}/attn/qkv/bias", (f"{theirs}.attn.in_proj_bias",), "same", (3 * width,))
        yield from _linear(f"{ours}/attn/out", (f"{theirs}.attn.out_proj",), width, width)
        yield from _linear(f"{ours}/mlp/fc", (f"{theirs}.mlp.c_fc",), width, mlp)
        yield from _linear(f"{ours}/mlp/proj", (f"{theirs}.mlp.c_proj",), mlp, width)


def _to_ours(array: np.ndarray, layout: str) -> np.ndarray:
    order = {"same": None, "linear": (1, 0), "conv": (2, 3, 1, 0)}[layout]
    moved = array if order is None else array.transpose(order)
    return np.array(moved, np.float32, order="C")


def _to_theirs(array: np.ndarray, layout: str) -> np.ndarray:
    order = {"same": None, "linear": (1, 0), "conv": (3, 2, 0, 1)}[layout]
    moved = array if order is None else np.asarray(array).transpose(order)
    return np.array(moved, np.float32, order="C")


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _put(tree: Params, path: str, value: np.ndarray) -> None:
    *folders, last = path.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[last] = value


def _get(tree: Params, path: str) -> np.ndarray:
    for key in path.split("/"):
        tree = tree[key]
    return np.asarray(tree)
