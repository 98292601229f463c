"""A method's own weights beside CLIP's in a folder: `tpr_method.json` and `tpr_parts.safetensors`."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models import methods
from tpr_jax.models.methods import Method, Slots
from tpr_jax.weights.files import read_state, write_state
from tpr_jax.writing import write_json

METHOD_FILE = "tpr_method.json"
PARTS_FILE = "tpr_parts.safetensors"


def flatten(tree: Mapping, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts of arrays -> `{"outer/inner": array}`."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> dict:
    """The inverse of `flatten`."""
    tree: dict = {}
    for path, value in flat.items():
        *folders, last = path.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = value
    return tree


def method_to_json(method: Method) -> dict:
    """A method as plain data: its parts by slot, each with the name of its kind."""

    def slots(tower: Slots) -> dict:
        parts = {f.name: getattr(tower, f.name) for f in dataclasses.fields(tower)}
        filled = {name: part for name, part in parts.items() if dataclasses.is_dataclass(part)}
        plain = {name: part for name, part in parts.items() if name not in filled}
        return plain | {
            name: {"kind": type(part).__name__, **dataclasses.asdict(part)} for name, part in filled.items()
        }

    return {
        "name": method.name,
        "vision": slots(method.vision),
        "text": slots(method.text),
        "trainable": list(method.trainable),
    }


def method_from_json(content: Mapping) -> Method:
    """The inverse of `method_to_json`.

    Raises:
      KeyError, TypeError, AttributeError: the content is not of a method known here.
    """

    def slots(tower: Mapping) -> Slots:
        return Slots(
            **{name: part(value) if isinstance(value, dict) else value for name, value in tower.items()}
        )

    def part(value: dict):
        settings = {key: setting for key, setting in value.items() if key != "kind"}
        return getattr(methods, value["kind"])(**settings)

    return Method(
        content["name"], slots(content["vision"]), slots(content["text"]), tuple(content["trainable"])
    )


def write_parts(folder: str | os.PathLike, method: Method, parts: Mapping) -> None:
    """Writes a method and its collections (all but `params`) into a folder.

    Raises:
      UserError: the folder cannot be written.
    """
    flat = {path: np.asarray(leaf, np.float32) for path, leaf in flatten(parts).items()}
    write_state(Path(folder) / PARTS_FILE, flat)
    write_json(Path(folder) / METHOD_FILE, method_to_json(method))


def read_parts(folder: str | os.PathLike) -> tuple[Method, dict] | None:
    """What `write_parts` wrote: the method and its collections in NumPy; None in a folder of CLIP alone.

    Raises:
      UserError: one of the two files is missing, damaged or of an unknown method.
    """
    file = Path(folder) / METHOD_FILE
    if not file.is_file():
        return None
    try:
        method = method_from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: not a method that this version knows ({error}); save the model again"
        ) from error
    return method, unflatten(read_state(Path(folder) / PARTS_FILE))
