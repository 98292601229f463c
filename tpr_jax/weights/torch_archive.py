"""Reads what `torch.save` wrote since 2020, without PyTorch and without running code stored in the file.

Like a TorchScript archive, the file is a zip archive with a pickle that describes the content and the raw
numbers beside it. Training programs save more than tensors: an optimizer's state, a config of a class of
their own. Objects of unknown classes become `Unread`, which does nothing.
"""

import zipfile
from pathlib import Path

import numpy as np

from tpr_jax.weights.torchscript import STORAGES, ScriptUnpickler, rebuild_tensor


class Named(dict):
    """Represents an OrderedDict; unlike a plain dict it takes the attributes that PyTorch stores with it."""


class Unread:
    """Represents an object of an unknown class: accepts its content and keeps nothing."""

    def __init__(self, *_, **__):
        """Ignores the arguments of its constructor."""

    def __setstate__(self, state: object) -> None:
        """Ignores its attributes."""

    def __setitem__(self, key: object, value: object) -> None:
        """Ignores an entry of a dict."""

    def append(self, value: object) -> None:
        """Ignores an element of a list."""

    def extend(self, values: object) -> None:
        """Ignores elements of a list."""

    def add(self, value: object) -> None:
        """Ignores an element of a set."""

    def __hash__(self) -> int:
        """Lets it be a key."""
        return id(self)


class ArchiveUnpickler(ScriptUnpickler):
    """Rebuilds the content with NumPy arrays, and `Unread` for everything that is not plain data."""

    def find_class(self, module: str, name: str):
        """Returns the constructor for a name."""
        if module == "torch" and name in STORAGES:
            return name
        known = {
            ("collections", "OrderedDict"): Named,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda array, *_: array,
            ("torch", "Size"): tuple,
        }
        return known.get((module, name), Unread)


def is_archive(path: Path) -> bool:
    """Returns whether the file has the zip format of `torch.save`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def read_archive(path: Path) -> object:
    """Returns the content of the file, with NumPy arrays for tensors.

    Raises:
      pickle.UnpicklingError, ValueError, KeyError, zipfile.BadZipFile: the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name.split("/")[0] for name in archive.namelist() if name.endswith("/data.pkl"))
        content = ArchiveUnpickler(archive, root).load()
    if isinstance(content, np.ndarray | Unread):
        raise ValueError("it holds no named weights")
    return content
