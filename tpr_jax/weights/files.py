"""Reads and writes files of named arrays, as they are stored on disk.

Safetensors files need no further package, PyTorch's own files need PyTorch. `state_dict` cleans up the names
of what was read.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import load_file, save_file

from tpr_jax.errors import UserError
from tpr_jax.utils.checksums import named_digest
from tpr_jax.utils.files import write_whole
from tpr_jax.weights.torchscript import read_torchscript

CHECKSUM = "tpr_jax_sha256"  # metadata key of a safetensors file: SHA-256 of the arrays
WRAPPER_KEYS = ("model", "state_dict", "model_state_dict", "module")  # where a checkpoint keeps its weights
# transformers 4 requires this entry; it does not change the arrays.
METADATA = {"format": "pt"}
TORCH_SUFFIXES = (".pt", ".pth", ".bin")
# Types of a safetensors file that NumPy has.
STORED: dict[str, Any] = {"BOOL": np.bool_, "F16": np.float16, "F32": np.float32, "F64": np.float64}
STORED |= {
    f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits // 8}") for kind in "IU" for bits in (8, 16, 32, 64)
}
# Types of PyTorch that NumPy lacks; float32 holds every value of them.
WIDENED = ("torch.bfloat16", "torch.float8")
# Types of a safetensors file that NumPy lacks; they become float32.
NARROW = {
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def read_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads every array of a `.safetensors`, `.pt`, `.pth` or `.bin` file, as it is stored.

    A checkpoint that wraps its weights, such as `{"model": {...}}` or `{"state_dict": {...}}`, is unwrapped.

    Raises:
      UserError: the file is missing, truncated, of another format, holds something other than arrays and
        numbers, or needs PyTorch, which is not installed. A TorchScript archive, such as OpenAI's CLIP, does
        not need it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; check the path")
    if path.suffix == ".safetensors":
        return _checked(path, _read_safetensors(path))
    if path.suffix in TORCH_SUFFIXES:
        return _as_arrays(path, _unwrap(_read_torch(path)))
    raise UserError(f"{path}: unknown kind of weights file; use .safetensors, .pt or .pth")


def is_torchscript(path: str | os.PathLike) -> bool:
    """Returns whether the file is a compiled model, as OpenAI publishes CLIP, rather than a state dict."""
    if Path(path).suffix not in TORCH_SUFFIXES or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:] == ["constants.pkl"] for name in archive.namelist())


def write_state(path: str | os.PathLike, state: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as a safetensors file, atomically.

    Raises:
      UserError: the folder cannot be written, or the disk is full.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in state.items()}
    try:
        metadata = METADATA | _checksum(contiguous)
        write_whole(path, lambda temporary: _save(contiguous, temporary, metadata))
    except SafetensorError as error:  # how safetensors reports a failed write
        raise UserError(
            f"{path}: cannot be written ({error}); check the folder and the free space"
        ) from error


def _save(state: Mapping[str, np.ndarray], path: str | os.PathLike, metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, with the same bytes for the same arrays.

    The library writes metadata in an order that changes from call to call but has the same length.
    """
    save_file(dict(state), path, metadata=dict(metadata))
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(written.ljust(size))


def _checksum(state: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the checksum entry of a file; none if a type is read back as another one."""
    round_trips = all(array.dtype.kind in "biuf" for array in state.values())
    return {CHECKSUM: named_digest(state)} if round_trips else {}


def _checked(path: Path, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compares the arrays with the file's checksum and returns them."""
    with safe_open(path, framework="np") as file:
        checksum = (file.metadata() or {}).get(CHECKSUM)
    if checksum is not None and checksum != named_digest(state):
        raise UserError(
            f"{path}: its weights differ from those that were saved: the file was damaged; copy it "
            "again from an intact source, or save the model again"
        )
    return state


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="np") as file:
            types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
        return load_file(path) if types <= STORED.keys() else _read_narrow(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a complete safetensors file ({error}); copy or download it again"
        ) from error


def _read_narrow(path: Path) -> dict[str, np.ndarray]:
    """Decodes a file with types that NumPy lacks, as float32."""
    state = {}
    for name, entry in deserialize(path.read_bytes()):
        stored, shape = entry["dtype"], entry["shape"]
        if stored in STORED:
            state[name] = np.frombuffer(entry["data"], STORED[stored]).reshape(shape)
        elif stored in NARROW:
            state[name] = np.frombuffer(entry["data"], NARROW[stored]).astype(np.float32).reshape(shape)
        else:
            raise UserError(f"{path}: weight {name!r} is of type {stored}; save it as float32 or bfloat16")
    return state


def _read_torch(path: Path) -> object:
    """Reads the content of a file without running code stored in it."""
    try:
        if is_torchscript(path):
            return read_torchscript(path)
        import torch

        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UserError(
            f"{path}: reading {path.suffix} files needs PyTorch; `pip install torch` or use .safetensors"
        ) from error
    except pickle.UnpicklingError as error:
        # PyTorch raises the same error for damage and for code; since 2020 an intact file is a zip archive.
        reason = "holds more than weights" if zipfile.is_zipfile(path) else "not a complete PyTorch file"
        raise UserError(f"{path}: {reason}; save its state_dict() alone, or fetch it again") from error
    except Exception as error:  # a damaged file may raise anything
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a complete PyTorch file ({first_line}); fetch it again") from error


def _unwrap(content: object) -> object:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPER_KEYS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _as_arrays(path: Path, content: object) -> dict[str, np.ndarray]:
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not named weights; save a state_dict()")
    return {str(name): _as_array(path, name, value) for name, value in content.items()}


def _as_array(path: Path, name: str, value: object) -> np.ndarray:
    if isinstance(value, np.ndarray | int | float | bool):
        return np.asarray(value)
    detach = getattr(value, "detach", None)
    if detach is None:
        raise UserError(f"{path}: {name!r} is a {type(value).__name__}, not an array; save a state_dict()")
    try:
        tensor = detach().cpu()
        if str(tensor.dtype).startswith(WIDENED):
            tensor = tensor.float()
        return tensor.numpy()
    except Exception as error:  # PyTorch raises several for what NumPy lacks
        layout, dtype = (str(getattr(value, name, "")).removeprefix("torch.") for name in ("layout", "dtype"))
        raise UserError(
            f"{path}: weight {name!r} ({layout}, {dtype}) has no counterpart in NumPy; save it as a dense "
            "float32 tensor"
        ) from error
