"""Checks the values of an index's `index.json`, which a user may have edited and a disk may have damaged."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tpr_jax.errors import shown
from tpr_jax.models.config import DTYPES
from tpr_jax.weights import arguments


class _Field(NamedTuple):
    """A value of `index.json`; null counts as missing.

    Attributes:
      name: its key, after that of the object that holds it.
      is_valid: returns whether a value that is not null is valid.
      description: what it has to be.
      optional: whether it may be missing.
    """

    name: str
    is_valid: Callable[[Any], bool]
    description: str
    optional: bool = False


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_pair_of_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_texts(value)


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(arguments.is_count, value))


def _is_mean(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(arguments.is_finite_number, value))


def _is_std(value: Any) -> bool:
    return _is_mean(value) and all(one > 0 for one in value)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_whole(value: Any) -> bool:
    return arguments.is_integer(value) and value >= 0


# An object stands before its values. Earlier versions did not write all of the optional ones.
_FIELDS = (
    _Field("model", _is_object, "an object"),
    _Field("model.name", _is_text, "a text"),
    _Field("model.sha256", _is_text, "a text"),
    _Field("model.image_size", _is_size, "two whole numbers above 0"),
    _Field("model.dtype", lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    _Field("model.embed_dim", arguments.is_count, "a whole number above 0"),
    _Field("model.mean", _is_mean, "three numbers", optional=True),
    _Field("model.std", _is_std, "three numbers above 0", optional=True),
    _Field("photos", _is_text, "a text"),
    _Field("sources", _is_texts, "a list of texts", optional=True),
    _Field("count", _is_whole, "a whole number"),
    _Field("skipped", _is_whole, "a whole number", optional=True),
    _Field("forgotten", _is_whole, "a whole number", optional=True),
    _Field("number", _is_whole, "a whole number"),
    _Field("approximate", _is_object, "an object", optional=True),
    _Field("files", _is_object, "an object"),
    _Field("files.vectors", _is_text, "a text"),
    _Field("files.photos", _is_text, "a text"),
    _Field("files.codes", _is_pair_of_texts, "a list of two texts", optional=True),
    _Field("files.ivf", _is_text, "a text", optional=True),
    _Field("store", _is_object, "an object", optional=True),
    _Field("store.url", _is_text, "a text"),
    _Field("store.table", _is_text, "a text"),
    _Field("store.id", _is_text, "a text"),
)


def find_mistake(info: Mapping) -> str | None:
    """Returns what is wrong with the first invalid value of an `index.json`, None if all are valid."""
    if "approximate" not in info:  # null, but never missing
        return "approximate is missing"
    for field in _FIELDS:
        *parents, key = field.name.split(".")
        holder = info.get(parents[0]) if parents else info
        if holder is None:  # an optional object
            continue
        value = holder.get(key)
        if value is None and not field.optional:
            return f"{field.name} is missing"
        if value is not None and not field.is_valid(value):
            return f"{field.name} is {shown(value)}, not {field.description}"
    return None
