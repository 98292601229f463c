"""The exported functions: uint8 pixels or token ids in, L2-normalized features out."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from tpr_jax.errors import UserError
from tpr_jax.losses import l2_normalize
from tpr_jax.model import Model
from tpr_jax.models import casting, clip
from tpr_jax.utils import normalize
from tpr_jax.utils.trees import flatten

NAMES = ("encode_image", "encode_text")
INPUTS = {"encode_image": "pixels", "encode_text": "ids"}
# The limit for a file with one encoder: protocol buffers and flatbuffers have 32-bit sizes.
MAX_BYTES = 2**31 - 2**24


def row_specs(model: Model) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns encoder -> (shape, type) of one input row: uint8 [H, W, 3] and int32 [L]."""
    length = model.tokenizer.context_length if model.tokenizer else model.config.context_length
    return {
        "encode_image": ((*model.config.image_size, 3), np.dtype("uint8")),
        "encode_text": ((length,), np.dtype("int32")),
    }


def encoders(model: Model, dtype: str) -> dict[str, Callable]:
    """Returns `encode_image` and `encode_text`, functions of (inference variables, rows).

    They take uint8 pixels [b, H, W, 3] and int32 ids [b, L], compute in `dtype`, and return L2-normalized
    float32 features [b, e].
    """
    functions = clip.build(model.config, model.method, dtype)

    def encode_image(variables: dict, pixels: UInt8[Array, "b h w 3"]) -> Float[Array, "b e"]:
        images = clip.normalize(pixels, model.mean, model.std)
        return l2_normalize(functions["encode_image"](variables, images)[0])

    def encode_text(variables: dict, ids: Int[Array, "b l"]) -> Float[Array, "b e"]:
        return l2_normalize(functions["encode_text"](variables, ids)[0])

    return {"encode_image": encode_image, "encode_text": encode_text}


def encoders_with_weights(model: Model, dtype: str) -> dict[str, Callable]:
    """Returns `encoders` as functions of the rows, with the weights as constants.

    Raises:
      UserError: an encoder is too large for one file.
    """
    variables, functions = casting.inference_variables(model.variables, dtype), encoders(model, dtype)
    for tower in ("visual", "text"):
        leaves = flatten({name: tree.get(tower, {}) for name, tree in variables.items()}).values()
        if (size := sum(leaf.nbytes for leaf in leaves)) > MAX_BYTES:
            raise UserError(
                f"{model.source}: its tower {tower!r} is {size / 1e9:.1f} GB, and a file of --format jax or "
                "onnx holds 2.1 GB: use --dtype bfloat16, or --format saved_model"
            )
    return {name: lambda rows, encode=functions[name]: encode(variables, rows) for name in NAMES}


def sample_inputs(model: Model, count: int = 3) -> dict[str, np.ndarray]:
    """Returns random input rows for each encoder: noise images, and ids that end with end of text."""
    rng, c, tokenizer = np.random.default_rng(0), model.config, model.tokenizer
    (shape, _), ((length,), _) = row_specs(model).values()
    start, end = (tokenizer.sot_id or 0, tokenizer.eot_id) if tokenizer else (0, c.eot_id)
    end = c.vocab_size - 1 if end is None else end
    ids = np.full((count, length), tokenizer.pad_id if tokenizer else 0, np.int32)
    for row in ids:
        last = int(rng.integers(2, length))
        row[0], row[last] = start, end
        row[1:last] = rng.integers(1, max(2, min(end, c.vocab_size - 3)), last - 1)
    return {"encode_image": rng.integers(0, 256, (count, *shape), np.uint8), "encode_text": ids}


def expected_features(model: Model, rows: dict[str, np.ndarray]) -> dict[str, Float[np.ndarray, "b e"]]:
    """Computes the model's own L2-normalized features of input rows."""
    feats = model.features_from_arrays(model.normalize(rows["encode_image"]), rows["encode_text"])
    return {name: normalize.l2_normalize(f) for name, f in zip(NAMES, feats, strict=True)}


def relative_error(actual: Float[np.ndarray, "b e"], expected: Float[np.ndarray, "b e"]) -> float:
    """Returns the norm of the difference relative to the expected norm, maximum over rows."""
    difference = np.linalg.norm(np.float64(actual) - expected, axis=1)
    return float(np.max(difference / np.linalg.norm(expected, axis=1)))
