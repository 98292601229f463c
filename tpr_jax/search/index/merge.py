"""Writes a new index from the cached vectors, and replaces the old one with it."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tpr_jax import __version__
from tpr_jax.model import Model, from_pretrained
from tpr_jax.search.index import store
from tpr_jax.search.index.cache import CachedVector, Location, VectorCache
from tpr_jax.search.index.encode import Stamp
from tpr_jax.search.index.forgotten import read_forgotten
from tpr_jax.search.index.gallery import Gallery, NoPhotosError, Photo
from tpr_jax.search.index.names import NUMBERED, SKIPPED
from tpr_jax.search.index.table import to_arrow
from tpr_jax.search.query import approximate, exact
from tpr_jax.utils.files import list_matching, write_json, write_text, write_whole
from tpr_jax.utils.plural import counted

_BLOCK = 16384
_ROW_GROUP = 65536


class IndexedPhoto(NamedTuple):
    """A photo of the new index, its file when it was encoded, and its vector."""

    photo: Photo
    stamp: Stamp
    location: Location


class _Files(NamedTuple):
    """The files of an index: its number, their names, and the measured recall of the approximate search."""

    number: int
    names: Mapping[str, str | list[str]]
    recall: dict | None


def write_index(
    folder: Path,
    gallery: Gallery,
    cache: VectorCache,
    old: store.Index | None,
    settings: Mapping,
    *,
    model: Model | None = None,
    build_lists: bool | None = None,
    num_arrays_before: int = 0,
) -> dict:
    """Writes all photos of the gallery that have a vector. Keeps the old files if nothing has changed.

    Args:
      folder: the index.
      gallery: the photos.
      cache: their vectors.
      old: the current index, if there is one.
      settings: the field `model` of `index.json`.
      model: the model, if it is loaded.
      build_lists: whether to build inverted lists for an approximate search; by default if the old index has
        them, or for more than a million photos.
      num_arrays_before: the number of arrays of `cache` before this run; those of shards are from runs that
        were interrupted.

    Returns:
      `count`, `kept`, `resumed`, `gone` and `skipped`.

    Raises:
      UserError: no photo could be read, or a file cannot be written.
    """
    photos, skipped = _indexed_photos(gallery, cache)
    if not photos:
        reason = ": ".join(skipped[0]) if skipped else "none was opened"
        raise NoPhotosError(
            f"{gallery.root}: none of its {counted(len(gallery.photos), 'photo')} can be read: {reason}"
        )
    locations = [photo.location for photo in photos]
    table = make_table([(photo, stamp) for photo, stamp, _ in photos])
    kept, gone = _count_kept_and_gone(old, gallery.root, photos) if old else (0, 0)
    resumed = _count_resumed(old, photos, num_arrays_before)
    result = {"count": len(photos), "kept": kept, "resumed": resumed, "gone": gone, "skipped": skipped}
    had_lists = old is not None and bool(old.info["files"].get("ivf"))
    if build_lists is None:
        build_lists = had_lists or len(photos) > approximate.MAX_EXACT
    unchanged = old is not None and locations == [(0, row) for row in range(len(old.vectors))]
    if unchanged and table.equals(old.table) and build_lists == had_lists:
        files = _Files(old.info["number"], old.info["files"], old.info["approximate"])
    else:
        number = old.info["number"] + 1 if old else 1
        feats = _sentence_feats(settings, model) if build_lists else None
        files = _write_vectors_and_table(folder, number, cache, locations, table)
        files = _write_search_structures(folder, files, feats)
    text = "".join(json.dumps({"photo": n, "why": w}, ensure_ascii=False) + "\n" for n, w in skipped)
    write_text(folder / SKIPPED, text)
    info = {
        "format_version": store.FORMAT_VERSION,
        "made_by": f"tpr_jax {__version__}",
        "model": {**settings, "image_size": list(settings["image_size"])},
        "photos": str(gallery.root),
        "sources": list(gallery.sources),
        "count": len(photos),
        "skipped": len(skipped),
        "number": files.number,
        "approximate": files.recall,
        "files": files.names,
    }
    if forgotten := len(read_forgotten(folder)):
        info["forgotten"] = forgotten
    if old is not None and "store" in old.info:
        info["store"] = old.info["store"]
    write_json(folder / store.INFO_FILE, info)
    _remove_old_files(folder, files)
    return result


def write_rows(folder: Path, old: store.Index, rows: Sequence[int], forgotten: int) -> None:
    """Writes an index with only some of its rows, in place of the old one, and removes the old files.

    Args:
      folder: the index.
      old: the same, opened.
      rows: the rows to keep, at least one.
      forgotten: the number of entries in the list of what was forgotten.

    Raises:
      UserError: a file cannot be written, or the model is not available, which inverted lists need.
    """
    feats = _sentence_feats(old.info["model"], None) if old.info["files"].get("ivf") else None
    cache, locations = VectorCache([old.vectors]), [Location(0, row) for row in rows]
    number = old.info["number"] + 1
    files = _write_vectors_and_table(folder, number, cache, locations, old.table.take(rows))
    files = _write_search_structures(folder, files, feats)
    info = dict(old.info) | {
        "made_by": f"tpr_jax {__version__}",
        "count": len(rows),
        "number": files.number,
        "approximate": files.recall,
        "files": files.names,
        "forgotten": forgotten,
    }
    write_json(folder / store.INFO_FILE, info)
    _remove_old_files(folder, files)


def _sentence_feats(settings: Mapping, model: Model | None) -> np.ndarray:
    """Returns the features of the sentences with which the recall of inverted lists is measured."""
    if model is None:
        model = from_pretrained(settings["name"], tuple(settings["image_size"]), settings["dtype"])
    return model.encode_texts(approximate.sentences())


def _count_kept_and_gone(old: store.Index, root: Path, photos: Sequence[IndexedPhoto]) -> tuple[int, int]:
    """Counts the photos whose content the old index had, and the old ones that are gone.

    A photo that was moved or renamed is kept, one whose file has changed is neither kept nor gone.
    """
    old_root, old_contents = Path(old.info["photos"]), _old_contents(old)
    paths = old.table["path"].to_pylist()
    old_files = [(old_root / path, box) for path, (_, box) in zip(paths, old_contents, strict=True)]
    contents = {(stamp.sha256, photo.box) for photo, stamp, _ in photos}
    files = {(root / photo.path, photo.box) for photo, _, _ in photos}
    pairs = zip(old_contents, old_files, strict=True)
    gone = sum(content not in contents and file not in files for content, file in pairs)
    known = set(old_contents)
    return sum((stamp.sha256, photo.box) in known for photo, stamp, _ in photos), gone


def _count_resumed(old: store.Index | None, photos: Sequence[IndexedPhoto], num_arrays_before: int) -> int:
    """Counts the photos that interrupted runs encoded and whose content the old index does not have."""
    shards = range(0 if old is None else 1, num_arrays_before)
    found = [(stamp.sha256, photo.box) for photo, stamp, location in photos if location.array in shards]
    if not found or old is None:
        return len(found)
    known = set(_old_contents(old))
    return sum(content not in known for content in found)


def _old_contents(old: store.Index) -> list[tuple]:
    """Returns (SHA-256 of the file, box) of each row of the current index."""
    return list(zip(old.table[store.FILE_COLUMNS[2]].to_pylist(), store.boxes(old.table), strict=True))


def _indexed_photos(gallery: Gallery, cache: VectorCache) -> tuple[list[IndexedPhoto], list[tuple[str, str]]]:
    """Returns the photos that have a vector, and (name, reason) of the others."""
    photos, skipped = [], list(gallery.skipped)
    for photo in gallery.photos:
        current = _current_vector(gallery, cache, photo)
        if photo.key in cache.skipped and current is None:
            skipped.append((_display_name(photo), cache.skipped[photo.key]))
        elif photo.key in cache.newest:
            # A file that changed while others were encoded keeps its newest vector.
            photos.append(IndexedPhoto(photo, *(current or cache.newest[photo.key])))
        else:
            skipped.append((_display_name(photo), "was not encoded; index the photos again"))
    return photos, skipped


def make_table(photos: Sequence[tuple[Photo, Stamp]]) -> pa.Table:
    """Returns a table with one row per photo: path, box, the gallery's columns, and the file when encoded."""
    boxes = [photo.box or (None,) * 4 for photo, _ in photos]
    columns = {"path": pa.array([photo.path for photo, _ in photos], pa.string())}
    for i, name in enumerate(store.KEY_COLUMNS[1:]):
        columns[name] = pa.array([box[i] for box in boxes], pa.int32())
    names = dict.fromkeys(name for photo, _ in photos for name in photo.columns)
    columns |= {name: to_arrow([photo.columns.get(name) for photo, _ in photos]) for name in names}
    dtypes = (pa.int64(), pa.int64(), pa.binary(32))
    for i, (name, dtype) in enumerate(zip(store.FILE_COLUMNS, dtypes, strict=True)):
        columns[name] = pa.array([stamp[i] for _, stamp in photos], dtype)
    return pa.table(columns)


def _write_vectors_and_table(
    folder: Path, number: int, cache: VectorCache, locations: Sequence[Location], table: pa.Table
) -> _Files:
    names = {"vectors": f"vectors-{number}.npy", "photos": f"photos-{number}.parquet"}
    write_whole(folder / names["vectors"], lambda temporary: _write_vectors(temporary, cache, locations))
    write_whole(
        folder / names["photos"],
        lambda temporary: pq.write_table(table, temporary, row_group_size=_ROW_GROUP),
    )
    return _Files(number, names, None)


def _write_search_structures(folder: Path, files: _Files, sentence_feats: np.ndarray | None) -> _Files:
    """Writes the 8-bit codes, and, given features of sentences to measure recall with, the inverted lists."""
    names, recall, code_files = dict(files.names), None, []
    vectors = np.load(folder / str(names["vectors"]), mmap_mode="r")
    if len(vectors) >= exact.MIN_VECTORS or sentence_feats is not None:
        code_files = names["codes"] = exact.write_codes(vectors, folder, f"codes-{files.number}")
    if sentence_feats is not None:
        codes = exact.open_codes(folder, code_files)
        sample = np.random.default_rng(0).choice(len(vectors), min(128, len(vectors)), replace=False)
        names["ivf"] = f"ivf-{files.number}.faiss"
        recall = approximate.build_lists(
            vectors,
            np.concatenate([sentence_feats, vectors[sample].astype(np.float32)]),
            lambda query, k: exact.exact_top_k(codes, vectors, query, k),
            folder / names["ivf"],
        )
    return _Files(files.number, names, recall)


def _write_vectors(path: str, cache: VectorCache, locations: Sequence[Location]) -> None:
    shape = (len(locations), cache.vectors[0].shape[1])
    with open(path, "wb") as file:  # through a memory map, a full disk would kill the process
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        starts = range(0, len(locations), _BLOCK)
        file.writelines(cache.gather(locations[i : i + _BLOCK]).tobytes() for i in starts)


def _current_vector(gallery: Gallery, cache: VectorCache, photo: Photo) -> CachedVector | None:
    """Returns the vector of a photo's file as it is now; a photo that was skipped may have been fixed."""
    try:
        status = (gallery.root / photo.path).stat()
    except (OSError, ValueError):
        return None
    return cache.find_unchanged(photo, status.st_size, status.st_mtime_ns)


def _remove_old_files(folder: Path, files: _Files) -> None:
    """Removes the files of earlier indexes; a file with a higher number is not of an index."""
    values = files.names.values()
    kept = {name for value in values for name in ([value] if isinstance(value, str) else value)}
    for path in list_matching(folder, NUMBERED):
        if path.name not in kept and int(path.stem.partition("-")[2]) <= files.number:
            with contextlib.suppress(OSError):  # Windows cannot remove an open file
                path.unlink()


def _display_name(photo: Photo) -> str:
    return photo.path if photo.box is None else f"{photo.path} {list(photo.box)}"
