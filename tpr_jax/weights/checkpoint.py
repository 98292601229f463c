"""Reads the checkpoints of other programs: wrapped, in shards, beside an optimizer's state."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.weights import folder_format
from tpr_jax.weights.files import TORCH_SUFFIXES, WRAPPER_KEYS, is_torchscript, read_state
from tpr_jax.weights.state_dict import unwrap_names
from tpr_jax.weights.torch_archive import is_archive, read_archive

INDEX = ".index.json"


class Checkpoint(NamedTuple):
    """The weights of a checkpoint.

    Attributes:
      state: name -> array, as it is stored; names without the prefixes of wrappers such as `module.`.
      files: the files that were read.
      skipped: the entries beside the weights, such as an optimizer's state.
    """

    state: dict[str, np.ndarray]
    files: tuple[Path, ...]
    skipped: tuple[str, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a file, the shards of an index, or the weights in a folder.

    Files that `torch.save` wrote since 2020 need no PyTorch, and no code stored in them is run.

    Raises:
      UserError: a file is missing, damaged or of another kind, or it holds no weights.
    """
    files = _files_of(path)
    state, skipped = {}, []
    for file in files:
        arrays, others = _read(file)
        state |= arrays
        skipped += others
    if not state:
        raise UserError(f"{path}: holds no arrays under names; give a checkpoint with a model's weights")
    return Checkpoint(unwrap_names(state, str(path)), tuple(files), tuple(dict.fromkeys(skipped)))


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        names = {file.name for file in path.iterdir()}
        index = next((name for name in sorted(names) if name.endswith(INDEX)), None)
        known = any(name in names for name in (*folder_format.OPEN_CLIP_FILES, "model.safetensors"))
        if index is None or known:
            return [path / name for name in folder_format.weights_of(path, names)]
        path = path / index
    if path.name.endswith(INDEX):
        return [path.parent / name for name in folder_format.shards(path)]
    return [path]


def _read(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays of one file, and the names of its other entries."""
    if path.suffix == ".npz":
        return _read_npz(path), []
    if path.suffix not in TORCH_SUFFIXES or not is_archive_of_weights(path):
        return read_state(path), []
    try:
        content = read_archive(path)
    except Exception as error:  # a damaged file may raise anything
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a complete PyTorch file ({line}); fetch it again") from error
    return split_entries(content)


def is_archive_of_weights(path: Path) -> bool:
    """Returns whether `torch.save` wrote the file, in its format since 2020, rather than TorchScript."""
    return path.is_file() and is_archive(path) and not is_torchscript(path)


def split_entries(content: object) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays of a checkpoint without its wrappers, and the names of all other entries."""
    skipped = []
    while isinstance(content, Mapping):
        key = next((key for key in WRAPPER_KEYS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        skipped += [str(name) for name in content if name != key]
        content = content[key]
    entries = content if isinstance(content, Mapping) else {}
    arrays = {str(name): array for name, array in entries.items() if isinstance(array, np.ndarray)}
    return arrays, [*skipped, *(str(name) for name in entries if str(name) not in arrays)]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; check the path")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and NumPy raise their own
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a complete .npz file of arrays ({line}); fetch it again") from error
