"""The two encoders as functions of what users have: uint8 pixels and token ids in, unit vectors out."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from tpr_jax.errors import UserError
from tpr_jax.model import Model
from tpr_jax.models import clip
from tpr_jax.utils.trees import flatten

NAMES = ("encode_image", "encode_text")
INPUTS = {"encode_image": "pixels", "encode_text": "ids"}
# What a file of one encoder can hold: protocol and flat buffers count in 32 bits.
LARGEST = 2**31 - 2**24


def row_specs(model: Model) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """encoder -> (the shape of one input row, its type): uint8 [H, W, 3], and int32 [L]."""
    length = model.tokenizer.context_length if model.tokenizer else model.config.context_length
    return {
        "encode_image": ((*model.config.image_size, 3), np.dtype("uint8")),
        "encode_text": ((length,), np.dtype("int32")),
    }


def encoders(model: Model, dtype: str) -> dict[str, Callable]:
    """encoder -> a function of (variables as by `clip.held`, rows), which computes in `dtype`.

    `encode_image` takes uint8 pixels [b, H, W, 3], `encode_text` int32 ids [b, L]; both give float32 [b, e]
    of length 1.
    """
    functions = clip.build(model.config, model.method, dtype)

    def encode_image(variables: dict, pixels: UInt8[Array, "b h w 3"]) -> Float[Array, "b e"]:
        images = clip.normalize(pixels, model.mean, model.std)
        return _unit(functions["encode_image"](variables, images)[0])

    def encode_text(variables: dict, ids: Int[Array, "b l"]) -> Float[Array, "b e"]:
        return _unit(functions["encode_text"](variables, ids)[0])

    return {"encode_image": encode_image, "encode_text": encode_text}


def with_weights_inside(model: Model, dtype: str) -> dict[str, Callable]:
    """`encoders` as functions of the rows alone.

    Raises:
      UserError: an encoder is too large for one file.
    """
    variables, made = clip.inference_variables(model.variables, dtype), encoders(model, dtype)
    for tower in ("visual", "text"):
        leaves = flatten({name: tree.get(tower, {}) for name, tree in variables.items()}).values()
        if (size := sum(leaf.nbytes for leaf in leaves)) > LARGEST:
            raise UserError(
                f"{model.source}: its tower {tower!r} is {size / 1e9:.1f} GB, and a file of --format jax or "
                "onnx holds 2.1 GB: take --dtype bfloat16, or --format saved_model"
            )
    return {name: lambda rows, made=made[name]: made(variables, rows) for name in NAMES}


def _unit(feats: Float[Array, "b e"]) -> Float[Array, "b e"]:
    return feats / jnp.maximum(jnp.linalg.norm(feats, axis=1, keepdims=True), 1e-12)


def samples(model: Model, count: int = 3) -> dict[str, np.ndarray]:
    """Rows to try each encoder on: noise, and random words of random number that end as the model expects."""
    rng, c = np.random.default_rng(0), model.config
    (shape, _), ((length,), _) = row_specs(model).values()
    start, end = (model.tokenizer.sot_id, model.tokenizer.eot_id) if model.tokenizer else (0, c.eot_id)
    end = c.vocab_size - 1 if end is None else end
    ids = np.zeros((count, length), np.int32)
    for row in ids:
        last = rng.integers(2, length)
        row[0], row[last] = start, end
        row[1:last] = rng.integers(1, max(2, min(end, c.vocab_size - 3)), last - 1)
    return {"encode_image": rng.integers(0, 256, (count, *shape), np.uint8), "encode_text": ids}


def wanted(model: Model, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model itself says of such rows: float32 [b, e] of length 1."""
    feats = model.features_from_arrays(model.normalize(rows["encode_image"]), rows["encode_text"])
    return {n: f / np.linalg.norm(f, axis=1, keepdims=True) for n, f in zip(NAMES, feats, strict=True)}


def error(found: Float[np.ndarray, "b e"], wanted: Float[np.ndarray, "b e"]) -> float:
    """The norm of the difference over that of the wanted, of the worst row."""
    difference = np.linalg.norm(np.float64(found) - wanted, axis=1)
    return float(np.max(difference / np.linalg.norm(wanted, axis=1)))
