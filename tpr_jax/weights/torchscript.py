"""Reads the weights of a TorchScript archive, the format of OpenAI's CLIP files, without PyTorch.

The file is a zip archive: `NAME/data.pkl` describes the modules, `NAME/data/KEY` holds the raw numbers. Only
the constructors that describe tensors are allowed in the pickle, so no code stored in the file is ever run.
"""

import pickle
import zipfile
from pathlib import Path

import numpy as np

STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "DoubleStorage": np.float64,
    "BFloat16Storage": np.uint16,  # converted to float32 in `rebuild_tensor`
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class ScriptModule:
    """Represents any module of the archive; its attributes are its weights and submodules."""


class ScriptUnpickler(pickle.Unpickler):
    """Rebuilds the tree of modules with NumPy arrays and rejects everything else."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str):
        """Returns the constructor for an allowed name."""
        if module.split(".")[0] == "__torch__":
            return ScriptModule
        if module == "torch" and name in STORAGES:
            return name
        allowed = {
            ("collections", "OrderedDict"): dict,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
            ("torch.jit._pickle", "build_intlist"): list,
            ("torch.jit._pickle", "build_doublelist"): list,
            ("torch.jit._pickle", "build_boollist"): list,
            ("torch.jit._pickle", "build_tensorlist"): list,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a model's weights")
        return allowed[module, name]

    def persistent_load(self, pid):
        """Returns a storage: its type and its numbers."""
        _, storage, key, *_ = pid
        numbers = np.frombuffer(self.archive.read(f"{self.root}/data/{key}"), STORAGES[storage])
        return storage, numbers


def read_torchscript(path: Path) -> dict[str, np.ndarray]:
    """Returns the state dict of the archived module: parameters and buffers under their dotted names.

    Raises:
      pickle.UnpicklingError, ValueError, KeyError, zipfile.BadZipFile: the file is damaged or another kind.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name.split("/")[0] for name in archive.namelist() if name.endswith("/data.pkl"))
        module = ScriptUnpickler(archive, root).load()
    if not isinstance(module, ScriptModule):
        raise ValueError("the archive does not hold a module")
    return dict(_named_arrays(module, ""))


def rebuild_tensor(storage, offset: int, size: tuple, stride: tuple, *_) -> np.ndarray:
    """Returns the array with this offset, size and stride (in elements) in a storage."""
    kind, numbers = storage
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 in size:
        return np.zeros(size, numbers.dtype)
    if offset < 0 or min(stride, default=0) < 0 or last >= len(numbers):
        raise ValueError("a tensor reaches beyond its storage")
    steps = [step * numbers.itemsize for step in stride]
    array = np.lib.stride_tricks.as_strided(numbers[offset:], size, steps).copy()
    return (array.astype(np.uint32) << 16).view(np.float32) if kind == "BFloat16Storage" else array


def _named_arrays(module: ScriptModule, prefix: str):
    for name, value in vars(module).items():
        if isinstance(value, np.ndarray):
            yield prefix + name, value
        elif isinstance(value, ScriptModule):
            yield from _named_arrays(value, f"{prefix}{name}.")
