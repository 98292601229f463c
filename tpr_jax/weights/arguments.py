"""Checks the arguments of the Python API; an error is one line that names the argument."""

import os
from collections.abc import Mapping, Sequence, Set
from typing import Any, SupportsIndex, TypeGuard

import numpy as np
from PIL import Image

from tpr_jax.errors import ArgumentError
from tpr_jax.models.config import ACTS, DTYPES


def check_dtype(dtype: Any) -> str:
    """Returns the name of a type that the towers compute in; also takes NumPy's and JAX's types.

    Raises:
      ArgumentError: it is another type, or not a type.
    """
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:
        name = None
    if dtype is None or name not in DTYPES:
        raise ArgumentError(f"dtype={dtype!r}: choose from: {', '.join(DTYPES)}")
    return name


def check_image_size(size: object) -> tuple[int, int] | None:
    """Returns (height, width) in pixels as Python integers; passes None through.

    Raises:
      ArgumentError: it is not two integers above 0.
    """
    if size is None:
        return None
    if not _is_list(size) or len(size) != 2 or not all(is_count(side) for side in size):
        raise ArgumentError(f"image_size={size!r} must be (height, width) in pixels, such as (384, 128)")
    return int(size[0]), int(size[1])


def check_act(act: object) -> str | None:
    """Returns the activation; None stands for that of the weights.

    Raises:
      ArgumentError: there is no activation of that name.
    """
    if act is None:
        return None
    if not isinstance(act, str) or act not in ACTS:
        raise ArgumentError(f"act={act!r}: choose from: {', '.join(ACTS)}")
    return act


def check_heads(heads: object) -> tuple[int, int] | None:
    """Returns the numbers of heads of the vision and text towers; None stands for those of the weights.

    Raises:
      ArgumentError: it is not two integers above 0.
    """
    if heads is None:
        return None
    if not _is_list(heads) or len(heads) != 2 or not all(is_count(count) for count in heads):
        raise ArgumentError(
            f"heads={heads!r} must be the numbers of heads of the vision and the text tower, such as (12, 8)"
        )
    return int(heads[0]), int(heads[1])


def check_channels(name: str, values: object) -> tuple[float, float, float] | None:
    """Returns an image mean or std; None stands for that of the weights.

    Args:
      name: "image_mean" or "image_std".
      values: of the red, green and blue channels.

    Raises:
      ArgumentError: it is not three finite numbers, or a std is not above 0.
    """
    if values is None:
        return None
    if (
        not _is_list(values)
        or len(values) != 3
        or not all(is_finite_number(value) for value in values)
        or (name == "image_std" and min(values) <= 0)
    ):
        raise ArgumentError(
            f"{name}={values!r} must be three numbers for red, green and blue, "
            + ("above 0, such as (0.27, 0.26, 0.28)" if name == "image_std" else "such as (0.48, 0.46, 0.41)")
        )
    red, green, blue = map(float, values)
    return red, green, blue


def check_path(name: str, path: object) -> str | os.PathLike:
    """Returns a path or hub id unchanged.

    Raises:
      ArgumentError: it is neither a string nor a path, or empty.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise ArgumentError(f"{name}={path!r} must be a path or a name (str), not {_kind(path)}")
    if not os.fspath(path).strip():
        raise ArgumentError(f"{name} is empty; give a folder, a file or a name")
    return path


def check_batch_size(size: object) -> int:
    """Returns a batch size as a Python integer.

    Raises:
      ArgumentError: it is not an integer above 0.
    """
    if not is_count(size):
        raise ArgumentError(f"batch_size={size!r} must be a whole number of at least 1")
    return int(size)


def check_images(images: object) -> list:
    """Returns the images as a list.

    Raises:
      ArgumentError: it is a single image, or has no order or length.
    """
    if isinstance(images, np.ndarray) and images.ndim in (2, 3):
        raise ArgumentError(
            f"images is one array of shape {list(images.shape)}: give a list of arrays [h, w, 3]"
        )
    return _as_list("images", images, (str, bytes, os.PathLike, Image.Image), "images")


def check_texts(texts: object) -> list[str]:
    """Returns the texts as a list.

    Raises:
      ArgumentError: it is a single text, has no order or length, or an item is not a string.
    """
    texts = _as_list("texts", texts, (str, bytes), "texts")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ArgumentError(f"texts[{i}]={text!r} must be a text (str), not {_kind(text)}")
    return texts


def check_image_array(images: object, image_size: tuple[int, int]) -> np.ndarray:
    """Returns normalized images `[n, h, w, 3]` as float32.

    Raises:
      ArgumentError: the array has another shape or type, or a value is not finite.
    """
    array = _array("images", images)
    if array.ndim != 4 or array.shape[1:] != (*image_size, 3):
        raise ArgumentError(
            f"images of shape {array.shape}, expected [n, {image_size[0]}, {image_size[1]}, 3]"
        )
    if array.dtype.kind not in "fV":  # V: ml_dtypes' bfloat16
        raise ArgumentError(
            f"images are {array.dtype}, expected normalized floats: give pixels to encode_images"
        )
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ArgumentError("images hold NaN or infinity: normalized pixels are finite")
    return array


def check_ids(ids: object, vocab_size: int, context_length: int) -> np.ndarray:
    """Returns token ids `[m, l]` as int32.

    Raises:
      ArgumentError: the array has another shape or type, rows longer than `context_length`, or an unknown id.
    """
    array = _array("ids", ids)
    if array.ndim != 2 or not 0 < array.shape[1] <= context_length:
        raise ArgumentError(f"ids of shape {array.shape}, expected [m, l] with l of 1 to {context_length}")
    if array.dtype.kind not in "iu":
        raise ArgumentError(f"ids are {array.dtype}, expected whole numbers")
    if array.size and not (array.min() >= 0 and array.max() < vocab_size):
        raise ArgumentError(
            f"ids lie in {array.min()}..{array.max()}, expected 0..{vocab_size - 1}: use its tokenizer"
        )
    return array.astype(np.int32)


COUNTS = ("num_experts", "top_k", "reduction", "rank", "prefix", "length", "prompts")
DEPTHS = ("depth", "depth_lora", "depth_prefix", "depth_adapter")


def check_setting(name: str, value: object) -> None:
    """Rejects a setting of a method that has the wrong type or range.

    Raises:
      ArgumentError: the message names the setting.
    """
    if name in COUNTS and not is_count(value):
        raise ArgumentError(f"{name}={value!r} must be a whole number of at least 1")
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if name in DEPTHS and value is not None and not (is_integer and value >= 0):
        raise ArgumentError(f"{name}={value!r} must be a number of blocks, or None for all")
    if name == "scales" and not (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(v, int | float) and np.isfinite(v) for v in value)
    ):
        raise ArgumentError(f"scales={value!r} must be two numbers: of the vision and the text tower")
    if name == "use" and not (isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)):
        raise ArgumentError(f"use={value!r} must be a list of names")


def is_count(value: object) -> TypeGuard[SupportsIndex]:
    """Returns whether a value is a Python or NumPy integer above 0."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def is_finite_number(value: object) -> bool:
    """Returns whether a value is a finite Python or NumPy number, and not a bool."""
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_number and bool(np.isfinite(value))


def _array(name: str, value) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}: not an array of numbers ({error})") from error
    if array.dtype.kind in "OUSM":
        raise ArgumentError(f"{name}: not an array of numbers but of {array.dtype}")
    return array


def _is_list(value) -> TypeGuard[list | tuple | np.ndarray]:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _as_list(name: str, value, single: tuple[type, ...], items: str) -> list:
    if isinstance(value, single):
        raise ArgumentError(f"{name} is one {_kind(value)}: give a list of {items}, such as [{name[:-1]}]")
    ordered = isinstance(value, Sequence | np.ndarray) or (
        hasattr(value, "__len__") and hasattr(value, "__iter__")
    )
    if (
        not ordered
        or isinstance(value, Mapping | Set)
        or np.ndim(value if isinstance(value, np.ndarray) else [0]) == 0
    ):
        raise ArgumentError(f"{name} must be a list, not {_kind(value)}")
    return list(value)


def _kind(value) -> str:
    return type(value).__name__
