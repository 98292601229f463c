"""Which photos have a vector already: in the index as it is, or in the parts of an interrupted run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float16

from tpr_jax.search.index.encode import Stamp
from tpr_jax.search.index.gallery import Photo
from tpr_jax.search.index.shards import read_parts
from tpr_jax.search.index.store import FILE, Index, boxes

Place = tuple[int, int]  # which array of vectors, and which of its rows


@dataclass(frozen=True)
class Known:
    """Vectors of photos as they were; a moved or copied file is known by its content."""

    vectors: list = field(default_factory=list)  # float16 [n, e] each, the index first
    newest: dict[tuple, tuple[Stamp, Place]] = field(default_factory=dict)
    older: dict[tuple, list[tuple[Stamp, Place]]] = field(default_factory=dict)
    by_content: dict[tuple, Place] = field(default_factory=dict)
    skipped: dict[tuple, str] = field(default_factory=dict)
    left_out: int = 0  # parts of another model, image size or type

    def unchanged(self, photo: Photo, size: int, mtime_ns: int) -> tuple[Stamp, Place] | None:
        """Where the vector is that was made of the photo's file when it had this size and time."""
        for found in (self.newest.get(photo.key), *self.older.get(photo.key, ())):
            if found and found[0][:2] == (size, mtime_ns):
                return found
        return None

    def same_content(self, photo: Photo, stamp: Stamp) -> Place | None:
        """Where the vector of the same bytes and box is, whatever the file's name."""
        return self.by_content.get((stamp.sha256, photo.box))

    def rows(self, places: Sequence[Place]) -> Float16[np.ndarray, "n e"]:
        """The vectors at these places."""
        arrays, rows = np.array(places, np.int64).reshape(-1, 2).T
        out = np.empty((len(places), self.vectors[0].shape[1]), np.float16)
        for number in np.unique(arrays):
            mine = arrays == number
            out[mine] = self.vectors[number][rows[mine]]
        return out


def find_known(index: Index | None, folder: Path, made_by: Mapping, root: Path) -> Known:
    """All that the index, and the parts in `folder` that were made by this recipe, hold of photos.

    `root` is where the photos are now: of a file in another place, size and time say nothing, and it is known
    by its content only.
    """
    found, left_out = read_parts(folder, made_by)
    known = Known(left_out=left_out)
    if index is not None:
        sizes, times, digests = (index.table[name].to_pylist() for name in FILE)
        keys = zip(index.table["path"].to_pylist(), boxes(index.table), strict=True)
        stamps = (Stamp(*stamp) for stamp in zip(sizes, times, digests, strict=True))
        _add(known, index.vectors, zip(keys, stamps, strict=True), index.info["photos"] == str(root))
    for part in found:
        here = part.root == str(root)
        _add(known, part.vectors, ((entry.key, entry.stamp) for entry in part.entries), here)
        if here:
            known.skipped.update(part.skipped)
    return known


def _add(known: Known, vectors, rows: Iterable[tuple[tuple, Stamp]], here: bool) -> None:
    number = len(known.vectors)
    known.vectors.append(vectors)
    for row, (key, stamp) in enumerate(rows):
        known.by_content[stamp.sha256, key[1]] = (number, row)
        if not here:
            continue
        if key in known.newest:
            known.older.setdefault(key, []).insert(0, known.newest[key])
        known.newest[key] = (stamp, (number, row))
        known.skipped.pop(key, None)
