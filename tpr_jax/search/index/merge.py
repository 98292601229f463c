"""Puts what is known into a new index beside the old one, and then in its place."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tpr_jax import __version__
from tpr_jax.errors import UserError
from tpr_jax.model import Model, from_pretrained
from tpr_jax.search.index import store
from tpr_jax.search.index.cache import Known, Place
from tpr_jax.search.index.encode import Stamp
from tpr_jax.search.index.gallery import Gallery, Photo
from tpr_jax.search.index.table import column
from tpr_jax.search.query import approximate as lists
from tpr_jax.search.query import exact
from tpr_jax.utils.files import write_json, write_text, write_whole

_BLOCK = 16384
_ROW_GROUP = 65536


def write_index(
    folder: Path,
    gallery: Gallery,
    known: Known,
    old: store.Index | None,
    model: dict,
    loaded: Model | None,
    approximate: bool | None,
) -> dict:
    """Writes all photos of the gallery whose vector is known; returns `count`, `kept`, `gone` and `skipped`.

    Where nothing is new the old index stays as it is.

    Raises:
      UserError: no photo could be read, or a file cannot be written.
    """
    found, skipped = [], [(name, why) for name, why in gallery.skipped]
    for photo in gallery.photos:
        current = _current(gallery, known, photo)
        if photo.key in known.skipped and current is None:
            skipped.append((_name(photo), known.skipped[photo.key]))
        elif photo.key in known.newest:
            # A file that changed while the others were encoded has the newest vector there is.
            found.append((photo, *(current or known.newest[photo.key])))
    if not found:
        raise UserError(
            f"{gallery.root}: none of its {len(gallery.photos)} photos can be read: {_first(skipped)}"
        )
    places = [place for _, _, place in found]
    table = make_table([(photo, stamp) for photo, stamp, _ in found])
    before = set(zip(old.table["path"].to_pylist(), store.boxes(old.table), strict=True)) if old else set()
    result = {
        "count": len(found),
        "kept": sum(place[0] == 0 for place in places) if old else 0,
        "gone": len(before - {photo.key for photo, _, _ in found}),
        "skipped": skipped,
    }
    had = old is not None and bool(old.info["files"].get("ivf"))
    wanted = (had or len(found) > lists.FROM) if approximate is None else approximate
    same = old is not None and places == [(0, row) for row in range(len(old.vectors))]
    if same and table.equals(old.table) and wanted == had:
        files, measured, number = old.info["files"], old.info["approximate"], old.info["number"]
    else:
        number = old.info["number"] + 1 if old else 1
        files, measured = _write_files(
            folder, number, known, places, table, model, loaded if wanted else None, wanted
        )
    text = "".join(json.dumps({"photo": n, "why": w}, ensure_ascii=False) + "\n" for n, w in skipped)
    write_text(folder / "skipped.jsonl", text)
    info = {
        "format_version": store.FORMAT_VERSION,
        "made_by": f"tpr_jax {__version__}",
        "model": {**model, "image_size": list(model["image_size"])},
        "photos": str(gallery.root),
        "count": len(found),
        "skipped": len(skipped),
        "number": number,
        "approximate": measured,
        "files": files,
    }
    write_json(folder / store.INFO, info)
    _remove_others(folder, files)
    return result


def make_table(found: Sequence[tuple[Photo, Stamp]]) -> pa.Table:
    """A row a photo: path, box, the gallery's own columns, and its file as it was when it was encoded."""
    boxes = [photo.box or (None,) * 4 for photo, _ in found]
    columns = {"path": pa.array([photo.path for photo, _ in found], pa.string())}
    columns |= {name: pa.array([box[i] for box in boxes], pa.int32()) for i, name in enumerate(store.KEY[1:])}
    names = dict.fromkeys(name for photo, _ in found for name in photo.columns)
    columns |= {name: column([photo.columns.get(name) for photo, _ in found]) for name in names}
    kinds = (pa.int64(), pa.int64(), pa.binary(32))
    for i, (name, kind) in enumerate(zip(store.FILE, kinds, strict=True)):
        columns[name] = pa.array([stamp[i] for _, stamp in found], kind)
    return pa.table(columns)


def _write_files(
    folder: Path,
    number: int,
    known: Known,
    places: Sequence[Place],
    table,
    model: dict,
    loaded,
    approximate: bool,
) -> tuple[dict, dict | None]:
    """(the names of the files of index `number`, what was measured of the approximate search)."""
    files = {"vectors": f"vectors-{number}.npy", "photos": f"photos-{number}.parquet"}
    write_whole(folder / files["vectors"], lambda temporary: _write_vectors(temporary, known, places))
    write_whole(
        folder / files["photos"],
        lambda temporary: pq.write_table(table, temporary, row_group_size=_ROW_GROUP),
    )
    vectors, measured = np.load(folder / files["vectors"], mmap_mode="r"), None
    if len(vectors) >= exact.FROM or approximate:
        files["codes"] = exact.write_codes(vectors, folder, f"codes-{number}")
    if approximate:
        rounded = exact.open_codes(folder, files["codes"])
        if loaded is None:
            loaded = from_pretrained(model["name"], model["image_size"], model["dtype"])
        sample = np.random.default_rng(0).choice(len(vectors), min(128, len(vectors)), replace=False)
        queries = np.concatenate([loaded.encode_texts(lists.sentences()), vectors[sample].astype(np.float32)])
        files["ivf"] = f"ivf-{number}.faiss"
        measured = lists.build_lists(
            vectors,
            queries,
            lambda query, k: exact.exact_top_k(rounded, vectors, query, k),
            folder / files["ivf"],
        )
    return files, measured


def _write_vectors(path: str, known: Known, places: Sequence[Place]) -> None:
    shape = (len(places), known.vectors[0].shape[1])
    with open(path, "wb") as file:  # not through a memory map, where a full disk kills the process
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(places), _BLOCK):
            file.write(known.rows(places[start : start + _BLOCK]).tobytes())


def _current(gallery: Gallery, known: Known, photo: Photo) -> tuple[Stamp, Place] | None:
    """The vector of a photo's file as it is now; one that was skipped may be mended."""
    try:
        status = (gallery.root / photo.path).stat()
    except (OSError, ValueError):
        return None
    return known.unchanged(photo, status.st_size, status.st_mtime_ns)


def _remove_others(folder: Path, files: dict) -> None:
    kept = {name for value in files.values() for name in ([value] if isinstance(value, str) else value)}
    for pattern in ("vectors-*.npy", "photos-*.parquet", "codes-*", "ivf-*.faiss"):
        for path in folder.glob(pattern):
            if path.name not in kept:
                with contextlib.suppress(OSError):  # Windows keeps what somebody has open
                    path.unlink()


def _name(photo: Photo) -> str:
    return photo.path if photo.box is None else f"{photo.path} {list(photo.box)}"


def _first(skipped: Sequence[tuple[str, str]]) -> str:
    return ": ".join(skipped[0]) if skipped else "none was opened"
