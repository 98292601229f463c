"""Maps the weights of CLIP and SigLIP between our names, Hugging Face's and OpenAI's, as NumPy arrays.

Ours is the tree of collection `params` that `tpr_jax.models.clip` reads: float32, linear kernels as
`[inputs, outputs]`, the patch convolution as `[height, width, 3, outputs]`; query, key, value concatenated.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig

Params = dict[str, Any]  # nested; the leaves are NumPy arrays


class Weight(NamedTuple):
    """One of our arrays and its names in another format.

    Attributes:
      path: our path, joined by "/".
      names: their names; several arrays are concatenated along our last axis, or stacked.
      layout: "same", "linear" (transposed) or "conv" (out, in, h, w -> h, w, in, out).
      shape: the shape of each of their arrays.
      stack: the new axis of ours along which several arrays are stacked, if they are.
    """

    path: str
    names: tuple[str, ...]
    layout: str
    shape: tuple[int, ...]
    stack: int | None = None


def hugging_face_weights(config: ClipConfig, grid: tuple[int, int]) -> list[Weight]:
    """Returns the names of Hugging Face's `CLIPModel`, with a position embedding for `grid`."""
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


def siglip_weights(config: ClipConfig, grid: tuple[int, int]) -> list[Weight]:
    """Returns the names of Hugging Face's `SiglipModel`, with a position embedding for `grid`."""
    d, w, p = config.vision_width, config.text_width, config.patch_size
    vision, text = "vision_model.", "text_model."
    embeddings, head = vision + "embeddings.", vision + "head."
    return [
        Weight("visual/conv1/kernel", (embeddings + "patch_embedding.weight",), "conv", (d, 3, p, p)),
        Weight("visual/conv1/bias", (embeddings + "patch_embedding.bias",), "same", (d,)),
        Weight(
            "visual/positional_embedding",
            (embeddings + "position_embedding.weight",),
            "same",
            (grid[0] * grid[1], d),
        ),
        *_hugging_face_blocks("visual", vision, config.vision_layers, d, config.vision_mlp),
        *_norm("visual/ln_post", vision + "post_layernorm", d),
        Weight("visual/pool/probe", (head + "probe",), "same", (1, 1, d)),
        Weight("visual/pool/attn/qkv/kernel", (head + "attention.in_proj_weight",), "linear", (3 * d, d)),
        Weight("visual/pool/attn/qkv/bias", (head + "attention.in_proj_bias",), "same", (3 * d,)),
        *_linear("visual/pool/attn/out", (head + "attention.out_proj",), d, d),
        *_norm("visual/pool/ln_2", head + "layernorm", d),
        *_linear("visual/pool/mlp/fc", (head + "mlp.fc1",), d, config.vision_mlp),
        *_linear("visual/pool/mlp/proj", (head + "mlp.fc2",), config.vision_mlp, d),
        Weight(
            "text/token_embedding",
            (text + "embeddings.token_embedding.weight",),
            "same",
            (config.vocab_size, w),
        ),
        Weight(
            "text/positional_embedding",
            (text + "embeddings.position_embedding.weight",),
            "same",
            (config.context_length, w),
        ),
        *_hugging_face_blocks("text", text, config.text_layers, w, config.text_mlp),
        *_norm("text/ln_final", text + "final_layer_norm", w),
        *_linear("text/proj", (text + "head",), w, config.embed_dim),
    ]


def openai_weights(config: ClipConfig, grid: tuple[int, int]) -> list[Weight]:
    """Returns the names of OpenAI's `CLIP`, with a position embedding for `grid`."""
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
    """Converts `state` to our tree, in float32.

    Args:
      state: their name -> array.
      weights: our arrays and their names.
      ignore: names in `state` that are skipped.
      where: the file, for error messages.

    Raises:
      UserError: a name is missing or unknown, or an array has another shape or is not finite.
    """
    expected = {name: weight.shape for weight in weights for name in weight.names}
    missing = [name for name in expected if name not in state]
    surplus = sorted(set(state) - set(expected) - ignore)
    if missing:
        raise UserError(
            f"{where}: weight {missing[0]!r} of shape {list(expected[missing[0]])} is missing"
            f"{_more(missing)}; is this the CLIP that the config describes?"
        )
    if surplus:
        shape = list(np.shape(state[surplus[0]]))
        raise UserError(
            f"{where}: weight {surplus[0]!r} of shape {shape} has no place in this CLIP{_more(surplus)}; "
            "remove it or use the matching config"
        )
    for name, shape in expected.items():
        if np.shape(state[name]) != shape:
            raise UserError(
                f"{where}: weight {name!r} has shape {list(np.shape(state[name]))}, expected {list(shape)}; "
                "use the config that belongs to these weights"
            )
        if not np.isfinite(state[name]).all():
            raise UserError(f"{where}: weight {name!r} holds NaN or infinity; use undamaged weights")
    params: Params = {}
    for weight in weights:
        arrays = [_to_ours(np.asarray(state[name]), weight.layout) for name in weight.names]
        if weight.stack is not None:
            array = np.stack(arrays, axis=weight.stack)
        else:
            array = np.concatenate(arrays, axis=-1) if len(arrays) > 1 else arrays[0]
        _put(params, weight.path, array)
    return params


def to_names(params: Params, weights: list[Weight]) -> dict[str, np.ndarray]:
    """Converts our tree to their names: the inverse of `from_names`."""
    state = {}
    for weight in weights:
        array = _get(params, weight.path)
        if weight.stack is not None:
            arrays = np.moveaxis(array, weight.stack, 0)
        elif array.ndim:
            arrays = np.split(array, len(weight.names), axis=-1)
        else:
            arrays = [array]
        for name, their_array in zip(weight.names, arrays, strict=True):
            state[name] = _to_theirs(their_array, weight.layout)
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
    *modules, leaf = path.split("/")
    for module in modules:
        tree = tree.setdefault(module, {})
    tree[leaf] = value


def _get(tree: Params, path: str) -> np.ndarray:
    for key in path.split("/"):
        tree = tree[key]
    return np.asarray(tree)
