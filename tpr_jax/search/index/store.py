"""The files of an index.

`index.json` names the other files and is replaced last, so that a reader always finds a complete index,
either the old one or the new one.

    index.json             version, model and its SHA-256, folder and number of the photos, names of the files
    vectors-N.npy          float16 [n, e], L2-normalized, memory-mapped
    photos-N.parquet       one row per vector: path, x, y, w, h (null without a box), the table's columns,
                           file_size, file_mtime_ns, file_sha256
    codes-N.npy            8-bit codes for a fast exact search (`exact`); for 4,096 photos and more
    codes-N.json           their scale and error bounds
    ivf-N.faiss            inverted lists for an approximate search (`approximate`); above a million photos
    skipped.jsonl          photos that cannot be read, and why
    footage.json           the videos and folders in which people were searched (`footage`)
    crops/                 the people of videos, cut out, in a folder per video (`tpr_jax.footage.scan`)
    forgotten.json         what `search forget` has removed (`forgotten`)
    chance.npz             scores of made-up descriptions, to compare those of queries with (`chance`)
    parts/                 vectors that are encoded but not yet in the index (`shards`)
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float16, Int

from tpr_jax.data import siglip_tokenizer
from tpr_jax.data.text_files import read_text
from tpr_jax.errors import UserError
from tpr_jax.search.index.info import find_mistake
from tpr_jax.search.index.names import CROPS, FILES, PARTS
from tpr_jax.utils import locking
from tpr_jax.utils.files import remove_leftovers_matching
from tpr_jax.utils.hashing import add_file
from tpr_jax.weights import save_folder
from tpr_jax.weights.backbone import find
from tpr_jax.weights.clip import weight_files
from tpr_jax.weights.load_adapter import read_adapter_config
from tpr_jax.weights.save_adapter import ADAPTER
from tpr_jax.weights.siglip import is_siglip

FORMAT_VERSION = 2
INFO_FILE = "index.json"
KEY_COLUMNS = ("path", "x", "y", "w", "h")
FILE_COLUMNS = ("file_size", "file_mtime_ns", "file_sha256")
_BLOCK = 4096
_LENGTH_ERROR = 0.01  # of a vector; float16 rounds that of a vector of length 1 by less than 0.001
T = TypeVar("T")


@dataclass(frozen=True)
class Index:
    """An open index.

    Attributes:
      folder: the folder of its files.
      info: the content of `index.json`.
      vectors: L2-normalized features of the photos, memory-mapped.
      table: one row per vector, see `photos-N.parquet` above.
    """

    folder: Path
    info: Mapping
    vectors: Float16[np.ndarray, "n e"]
    table: pa.Table

    def file(self, kind: str) -> Path | None:
        """Returns the path of a file of the index by its key in `info["files"]`, None if it has none."""
        name = self.info["files"].get(kind)
        return self.folder / name if name else None


def read_info(folder: str | os.PathLike) -> dict | None:
    """Reads `index.json`. Returns None if there is no index yet.

    Raises:
      UserError: it cannot be read, is damaged, or is of another version.
    """
    path = Path(folder) / INFO_FILE
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UserError(f"--index {folder}: is a file; name a folder for the index") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); index the photos into a new folder") from error
    version = info.get("format_version") if isinstance(info, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: an index of version {version!r}, but this version of tpr_jax reads {FORMAT_VERSION}: "
            "index the photos into a new folder, or use the version of tpr_jax that made it"
        )
    if (mistake := find_mistake(info)) is not None:
        raise UserError(f"{path}: the index is damaged ({mistake}); index the photos into a new folder")
    return info


def open_index(folder: str | os.PathLike) -> Index:
    """Opens an index for searching.

    Raises:
      UserError: there is no index, or it cannot be read, is damaged, or is of another version.
    """
    return open_current(folder, lambda index: index)


def open_current(folder: str | os.PathLike, load: Callable[[Index], T]) -> T:
    """Opens an index, and returns `load(index)`, which may open more of its files.

    Retries with the new index if another process replaces the files in the meantime.

    Raises:
      UserError: as `open_index`; and whatever `load` raises.
    """
    folder = Path(folder)
    info = _require_info(folder)
    while True:
        try:
            return load(_open(folder, info))
        except UserError:
            newer = _require_info(folder)
            if newer == info:
                raise
            info = newer


def _require_info(folder: Path) -> dict:
    info = read_info(folder)
    if info is None and (holder := locking.describe_holder(folder)) is not None:
        raise UserError(f"--index {folder}: is still being made{holder}; wait until that is done")
    if info is None:
        raise UserError(
            f"--index {folder}: has no index yet; make one with: python -m tpr_jax.search index PHOTOS "
            f"--index {folder}"
        )
    return info


def _open(folder: Path, info: dict) -> Index:
    try:
        shape = (info["count"], info["model"]["embed_dim"])
        vectors = np.load(folder / info["files"]["vectors"], mmap_mode="r", allow_pickle=False)
        table = pq.ParquetFile(folder / info["files"]["photos"], memory_map=True).read()
        valid = vectors.shape == shape and vectors.dtype == np.float16 and table.num_rows == shape[0]
        valid = valid and set(KEY_COLUMNS + FILE_COLUMNS) <= set(table.column_names)
    except PermissionError as error:
        raise UserError(f"{error.filename}: cannot be read; check the file's permissions") from error
    except (OSError, EOFError, ValueError, TypeError, pa.ArrowException) as error:
        raise _damaged(folder, " ".join(str(error).split())[:200]) from error
    if not valid:
        raise _damaged(folder, "its files do not match each other")
    return Index(folder, info, vectors, table)


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(f"{folder}: the index is damaged ({reason}); index the photos into a new folder")


def read_vectors(
    index: Index, rows: slice | Sequence[int] | Int[np.ndarray, " r"]
) -> Float[np.ndarray, "r e"]:
    """Reads vectors of an index as float32, and checks that they are of length 1.

    This finds most damage of a disk: a flipped exponent or NaN, blocks of zeros, and blocks of other files.

    Args:
      index: the index.
      rows: the rows, in any order.

    Raises:
      UserError: a vector is damaged.
    """
    vectors = np.asarray(index.vectors[rows]).astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_ERROR))  # also true for NaN
    if len(wrong):
        row = np.arange(len(index.vectors))[rows][wrong[0]]
        name = index.info["files"]["vectors"]
        raise _damaged(index.folder, f"{name}: the vector of row {row} is not of length 1")
    return vectors


def check_vectors(index: Index) -> None:
    """Reads all vectors of an index, and checks them as `read_vectors` does.

    Raises:
      UserError: a vector is damaged.
    """
    for start in range(0, len(index.vectors), _BLOCK):
        read_vectors(index, slice(start, start + _BLOCK))


def remove_temporaries(folder: str | os.PathLike) -> None:
    """Removes the temporary files of killed writers. Call it only while no process writes the index."""
    for place in (Path(folder), Path(folder, PARTS)):
        remove_leftovers_matching(place, FILES)


def known_sources(info: Mapping) -> list[str]:
    """Returns what an index is of: folders, tables, videos and patterns, as absolute paths."""
    return info.get("sources") or [info["photos"]]  # earlier versions recorded only the root


def other_source_error(folder: Path, known: Sequence[str], source: str | os.PathLike) -> UserError:
    """Returns the error for a source that an index does not have, where no option says what is wanted."""
    return UserError(
        f"{folder}: is an index of {', '.join(known)}: --add indexes {source} beside it, --replace in its "
        "place; or choose another --index"
    )


def is_crop(folder: str | os.PathLike, path: str | os.PathLike) -> bool:
    """Returns whether a file is a person of a video that is cut out already: one in `crops/` of the index."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(Path(folder, CROPS)))


def public_table(index: Index) -> pa.Table:
    """Returns the columns of an index that users see: all but the stamps of its files."""
    return index.table.drop_columns(list(FILE_COLUMNS))


def boxes(table: pa.Table) -> list[tuple[int, int, int, int] | None]:
    """Returns the box of each row, None if it has none."""
    columns = [table[name].to_pylist() for name in KEY_COLUMNS[1:]]
    return [None if box[0] is None else box for box in zip(*columns, strict=True)]


def model_sha256(name: str | os.PathLike) -> str:
    """Computes the SHA-256 of all files that determine a model's features.

    These are the weights, sizes, image settings and tokenizer. The location of the files does not matter, nor
    that of a saved model's backbone: config.json has the backbone's SHA-256, and loading checks it.

    Raises:
      UserError: the model is not available, or a file cannot be read.
    """
    path, digest = find(name).path, hashlib.sha256()
    saved = read_adapter_config(path) if path.is_dir() else None
    files = [path / ADAPTER] if saved else weight_files(path)
    if path.is_dir():
        names = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json")
        if is_siglip(save_folder.read_config(path) or {}):
            names += siglip_tokenizer.SETTINGS  # which this tokenizer reads too
        files += [path / name for name in names if (path / name).is_file()]
    for file in files:
        digest.update(file.name.encode() + b"\0")
        if saved and file.name == "config.json":
            settings = json.loads(read_text(file))
            settings["backbone"].pop("name")
            settings["backbone"].pop("revision", None)
            digest.update(json.dumps(settings, sort_keys=True).encode())
        else:
            add_file(digest, file)
    return digest.hexdigest()


def encoder_fingerprint(model: Mapping) -> dict:
    """Returns all settings that determine a photo's vector, as JSON values that can be compared.

    Args:
      model: the field `model` of an index's `index.json`.
    """
    names = ("sha256", "image_size", "dtype", "mean", "std")
    return json.loads(json.dumps({name: model.get(name) for name in names}))


def find_model(
    info: Mapping, folder: str | os.PathLike, given: str | os.PathLike | None
) -> str | os.PathLike:
    """Returns where the model of an index is, after checking that it is the one that the index was made with.

    Args:
      info: the index's `index.json`.
      folder: the index, for the message.
      given: where a user says that the model is; None if the user does not.

    Raises:
      UserError: the model is not available, or is another one.
    """
    settings = info["model"]
    name = settings["name"] if given is None else given
    try:
        sha256 = model_sha256(name)
    except UserError as error:
        if given is not None:
            raise
        raise UserError(
            f"{error}: {folder} was made with this model; if it has moved, give its new place with --model"
        ) from error
    if sha256 == settings["sha256"]:
        return name
    digests = sha256[:12], settings["sha256"][:12]
    if given is None or find(given).pinned == settings["name"]:
        raise UserError(
            f"{name}: has changed since {folder} was made with it (SHA-256 {digests[0]}..., then "
            f"{digests[1]}...): restore it, give a copy of what it was with --model, or index the photos "
            "into a new folder"
        )
    raise UserError(
        f"--model {name}: SHA-256 {digests[0]}..., but {folder} was made with {settings['name']}, "
        f"{digests[1]}...: omit --model, or index the photos into a new folder"
    )


def check_pixels(settings: Mapping, folder: str | os.PathLike, model) -> None:
    """Checks that a loaded model normalizes pixels by the mean and deviation that the index was made with.

    An index of an earlier version does not record these, and is accepted.

    Args:
      settings: the field `model` of the index's `index.json`.
      folder: the index, for the message.
      model: the loaded `Model`, whose module imports JAX.

    Raises:
      UserError: a value differs.
    """
    for name in ("mean", "std"):
        current = [float(x) for x in getattr(model, name)]
        if settings.get(name, current) != current:
            raise UserError(
                f"{folder}: was made with {name} {settings[name]} of the pixels, but {settings['name']} has "
                f"{current}: index the photos into a new folder"
            )
