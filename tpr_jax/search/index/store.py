"""The index on the disk. `index.json` names the other files, and is replaced last: a reader finds either the
old index or the new one, whole.

    index.json             version, model and its SHA-256, where the photos are, how many, the files' names
    vectors-N.npy          float16 [n, e], L2-normalized, memory-mapped
    photos-N.parquet       a row a vector: path, x, y, w, h (null without a box), the table's columns,
                           file_size, file_mtime_ns, file_sha256
    codes-N.npy            8 bits a number, for a quick exact search (`codes`); from 4,096 photos on
    codes-N.json           what they stand for, and how far they were rounded
    ivf-N.faiss            lists for an approximate search (`approximate`); above a million photos
    skipped.jsonl          photos that cannot be read, and why
    parts/                 what is encoded but not yet in the index
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float16

from tpr_jax.data.text_files import read_text
from tpr_jax.errors import UserError
from tpr_jax.utils.hashing import add_file
from tpr_jax.weights.backbone import find
from tpr_jax.weights.clip import weight_files
from tpr_jax.weights.load_adapter import read_adapter_config
from tpr_jax.weights.save_adapter import ADAPTER

FORMAT_VERSION = 2
INFO = "index.json"
KEY = ("path", "x", "y", "w", "h")
FILE = ("file_size", "file_mtime_ns", "file_sha256")
# What `utils.files.write_whole` calls the files of an index while it writes them.
_TEMPORARY = re.compile(
    r"\.(index\.json|skipped\.jsonl|vectors-\d+\.npy|photos-\d+\.parquet|codes-\d+\.(npy|json)|ivf-\d+\.faiss"
    r"|(part-\d+|[0-9a-f]{16})-[0-9a-f]{32}\.npz)\.[a-z0-9_]{8}\.tmp"
)
T = TypeVar("T")


@dataclass(frozen=True)
class Index:
    """An index as it was when it was opened; `vectors` [n, e] float16 is memory-mapped."""

    folder: Path
    info: Mapping
    vectors: Float16[np.ndarray, "n e"]
    table: pa.Table

    def file(self, kind: str) -> Path | None:
        """The file of this kind, None where the index has none."""
        name = self.info["files"].get(kind)
        return self.folder / name if name else None


def read_info(folder: str | os.PathLike) -> dict | None:
    """What index.json says; None where there is no index yet.

    Raises:
      UserError: it cannot be read, is damaged, or of another version.
    """
    path = Path(folder) / INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UserError(f"--index {folder}: is a file; name a folder for the index") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error}); index the photos into a new folder") from error
    version = info.get("format_version") if isinstance(info, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: an index of version {version!r}, but this version of tpr_jax reads {FORMAT_VERSION}: "
            "index the photos into a new folder, or use the version that made it"
        )
    return info


def open_index(folder: str | os.PathLike) -> Index:
    """Opens an index for searching.

    Raises:
      UserError: there is none, it cannot be read, is damaged, or of another version.
    """
    return open_current(folder, lambda index: index)


def open_current(folder: str | os.PathLike, load: Callable[[Index], T]) -> T:
    """Returns `load(index)`, which may open more of the index's files.

    Where `index` replaced the files meanwhile, the index that is there now is opened instead.

    Raises:
      UserError: as `open_index`, or of `load`.
    """
    folder = Path(folder)
    info = _existing_info(folder)
    while True:
        try:
            return load(_open(folder, info))
        except UserError:
            newer = _existing_info(folder)
            if newer == info:
                raise
            info = newer


def _existing_info(folder: Path) -> dict:
    info = read_info(folder)
    if info is None:
        raise UserError(
            f"--index {folder}: has no index yet; make one by: python -m tpr_jax.search index PHOTOS "
            f"--index {folder}"
        )
    return info


def _open(folder: Path, info: dict) -> Index:
    try:
        shape = (info["count"], info["model"]["embed_dim"])
        vectors = np.load(folder / info["files"]["vectors"], mmap_mode="r", allow_pickle=False)
        table = pq.read_table(folder / info["files"]["photos"], memory_map=True)
        whole = vectors.shape == shape and vectors.dtype == np.float16 and table.num_rows == shape[0]
        whole = whole and set(KEY + FILE) <= set(table.column_names)
        whole = whole and {"number", "photos", "approximate"} <= set(info)
        whole = whole and {"name", "sha256", "image_size", "dtype"} <= set(info["model"])
    except PermissionError as error:
        raise UserError(f"{error.filename}: cannot be read; check the file's permissions") from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: the index is damaged ({what}); index the photos into a new folder"
        ) from error
    if not whole:
        raise UserError(
            f"{folder}: the index is damaged (its files do not fit each other); index the photos "
            "into a new folder"
        )
    return Index(folder, info, vectors, table)


def remove_temporaries(folder: str | os.PathLike) -> None:
    """Removes the temporary files of writers that were killed; nobody may be writing the index."""
    for path in [*Path(folder).glob(".*.tmp"), *Path(folder).glob("parts/.*.tmp")]:
        if _TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def boxes(table: pa.Table) -> list[tuple[int, int, int, int] | None]:
    """The box of each row, None where it has none."""
    columns = [table[name].to_pylist() for name in KEY[1:]]
    return [None if box[0] is None else box for box in zip(*columns, strict=True)]


def model_sha256(name: str | os.PathLike) -> str:
    """Of all files that decide what a model's features are: weights, sizes, image settings, tokenizer.

    Where the files lie plays no part, nor where the backbone of a saved model is: its SHA-256 stands in
    config.json, and loading checks it.

    Raises:
      UserError: nothing of that name can be reached, or a file cannot be read.
    """
    path, digest = find(name).path, hashlib.sha256()
    saved = read_adapter_config(path) if path.is_dir() else None
    files = [path / ADAPTER] if saved else weight_files(path)
    if path.is_dir():
        names = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json")
        files += [path / n for n in names if (path / n).is_file()]
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


def check_model(info: Mapping, folder: str | os.PathLike, name: str | os.PathLike, found: str) -> None:
    """Raises UserError unless `found` is the SHA-256 of the model that the index was made with."""
    made = info["model"]
    if found != made["sha256"]:
        raise UserError(
            f"--model {name}: SHA-256 {found[:12]}..., but {folder} was made with {made['name']}, "
            f"{made['sha256'][:12]}...: leave --model out, or index the photos into a new folder"
        )


def check_pixels(made: Mapping, folder: str | os.PathLike, model) -> None:
    """Raises UserError unless the loaded model subtracts the mean, and divides by the deviation, that it did
    when the index was made; an index that does not say so is taken as it is."""
    for name in ("mean", "std"):
        now = [float(x) for x in getattr(model, name)]
        if made.get(name, now) != now:
            raise UserError(
                f"{folder}: was made with {name} {made[name]} of the pixels, but {made['name']} has {now}: "
                "index the photos into a new folder"
            )
