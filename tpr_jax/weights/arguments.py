"""Checks the arguments of the Python API; an error is one line that names the argument."""

import os
from collections.abc import Mapping, Sequence, Set
from typing import Any, SupportsIndex, TypeGuard

import numpy as np
from PIL import Image

from tpr_jax.errors import ArgumentError, shown
from tpr_jax.models.config import ACTS, DTYPES
from tpr_jax.models.petl_config import LARGEST_FLOAT


def check_dtype(dtype: Any, choices: Sequence[str] = DTYPES) -> str:
    """Returns the name of a type that the towers compute in; also takes NumPy's and JAX's types.

    Args:
      dtype: a name or a type.
      choices: the names of the types that can be computed in.

    Raises:
      ArgumentError: it is another type, or not a type.
    """
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:
        name = None
    if dtype is None or name is None or name not in choices:
        raise ArgumentError(f"dtype={shown(dtype)}: choose from: {', '.join(choices)}")
    return name


def check_image_size(size: object) -> tuple[int, int] | None:
    """Returns (height, width) in pixels as Python integers; passes None through.

    Raises:
      ArgumentError: it is not two integers above 0.
    """
    if size is None:
        return None
    if not _is_list(size) or len(size) != 2 or not all(is_count(side) for side in size):
        raise ArgumentError(f"image_size={shown(size)} must be (height, width) in pixels, such as (384, 128)")
    return int(size[0]), int(size[1])


def check_act(act: object) -> str | None:
    """Returns the activation; None stands for that of the weights.

    Raises:
      ArgumentError: there is no activation of that name.
    """
    if act is None:
        return None
    if not isinstance(act, str) or act not in ACTS:
        raise ArgumentError(f"act={shown(act)}: choose from: {', '.join(ACTS)}")
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
            f"heads={shown(heads)} must be the numbers of heads of the vision and the text tower, such as "
            "(12, 8)"
        )
    return int(heads[0]), int(heads[1])


def check_channels(name: str, values: object) -> tuple[float, float, float] | None:
    """Returns an image mean or std; None stands for that of the weights.

    Args:
      name: of the argument; that of a standard deviation ends with "std".
      values: of the red, green and blue channels.

    Raises:
      ArgumentError: it is not three numbers that are finite in float32, or a std is 0 there or negative.
    """
    if values is None:
        return None
    if (
        not _is_list(values)
        or len(values) != 3
        or not all(is_finite_number(value) for value in values)
        or (name.endswith("std") and not all(np.float32(value) > 0 for value in values))
    ):
        raise ArgumentError(
            f"{name}={shown(values)} must be three numbers for red, green and blue, "
            + (
                "above 0, such as (0.27, 0.26, 0.28)"
                if name.endswith("std")
                else "such as (0.48, 0.46, 0.41)"
            )
        )
    red, green, blue = map(float, values)
    return red, green, blue


def check_path(name: str, path: object) -> str | os.PathLike:
    """Returns a path or hub id unchanged.

    Raises:
      ArgumentError: it is neither a string nor a path, or empty.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise ArgumentError(f"{name}={shown(path)} must be a path or a name (str), not {_kind(path)}")
    if not os.fspath(path).strip():
        raise ArgumentError(f"{name} is empty ({os.fspath(path)!r}); give a folder, a file or a name")
    return path


def check_batch_size(size: object) -> int:
    """Returns a batch size as a Python integer.

    Raises:
      ArgumentError: it is not an integer above 0.
    """
    if not is_count(size):
        raise ArgumentError(f"batch_size={shown(size)} must be a whole number of at least 1")
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


def check_texts(texts: object, name: str = "texts", items: str = "texts") -> list[str]:
    """Returns the texts as a list.

    Args:
      texts: the value of the argument.
      name: of the argument.
      items: what the texts are, in the plural.

    Raises:
      ArgumentError: it is a single text, has no order or length, or an item is not a string.
    """
    texts = _as_list(name, texts, (str, bytes), items)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ArgumentError(f"{name}[{i}]={shown(text)} must be a text (str), not {_kind(text)}")
    return texts


def check_choices(name: str, values: object, choices: Sequence[str]) -> tuple[str, ...]:
    """Returns the chosen names, each once.

    Raises:
      ArgumentError: it is a single name, empty, or holds anything but the choices.
    """
    values = check_texts(values, name, "names")
    for value in values or [""]:
        if value not in choices:
            raise ArgumentError(f"{name}: {shown(value)} is unknown: choose from: {', '.join(choices)}")
    return tuple(dict.fromkeys(values))


def check_flag(name: str, value: object) -> bool:
    """Returns a flag unchanged.

    Raises:
      ArgumentError: it is neither True nor False.
    """
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"{name}={shown(value)} must be True or False")
    return bool(value)


def check_type(name: str, value: object, expected: type, description: str) -> None:
    """Rejects an object of another type.

    Args:
      name: of the argument.
      value: of the argument.
      expected: the type.
      description: of the type, for the message, such as "a Model".

    Raises:
      ArgumentError: the value is not of the type.
    """
    if not isinstance(value, expected):
        raise ArgumentError(f"{name} must be {description}, not {_kind(value)}")


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
        raise ArgumentError(f"{name}={shown(value)} must be a whole number of at least 1")
    is_depth = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if name in DEPTHS and value is not None and not is_depth:
        raise ArgumentError(f"{name}={shown(value)} must be a number of blocks, or None for all")
    if name == "scales" and not (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(v, int | float) and np.isfinite(v) for v in value)
    ):
        raise ArgumentError(f"scales={shown(value)} must be two numbers: of the vision and the text tower")
    if name == "use" and not (isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)):
        raise ArgumentError(f"use={shown(value)} must be a list of names")


def is_count(value: object) -> TypeGuard[SupportsIndex]:
    """Returns whether a value is a Python or NumPy integer above 0."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def is_integer(value: object) -> bool:
    """Returns whether a value is a Python or NumPy integer, and not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_finite_number(value: object) -> bool:
    """Returns whether a value is a Python or NumPy number that is finite in float32, and not a bool."""
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_number and bool(-LARGEST_FLOAT <= value <= LARGEST_FLOAT)  # false for NaN


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
        raise ArgumentError(f"{name} is one {_kind(value)}: give a list of {items}, such as [{items[:-1]}]")
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
