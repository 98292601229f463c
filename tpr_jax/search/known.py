"""Which photos have a vector already: in the index as it is, or in the parts of an interrupted run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float16

from tpr_jax.search.encode import Stamp
from tpr_jax.search.gallery import Photo
from tpr_jax.search.parts import read_parts
from tpr_jax.search.store import FILE, Index, boxes

Place = tuple[int, int]  # which array of vectors, and which of its rows


@dataclass(frozen=True)
class Known:
    """Vectors of photos as they were; a moved or copied file is known by its content."""

    vectors: list = field(default_factory=list)  # float16 [n, e] each, the index first
    by_key: dict[tuple, tuple[Stamp, Place]] = field(default_factory=dict)
    by_content: dict[tuple, Place] = field(default_factory=dict)
    skipped: dict[tuple, str] = field(default_factory=dict)

    def unchanged(self, photo: Photo, size: int, mtime_ns: int) -> tuple[Stamp, Place] | None:
        """Where a photo's vector is, if its file has the size and the time it had."""
        found = self.by_key.get(photo.key)
        return found if found and found[0][:2] == (size, mtime_ns) else None

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


def find_known(index: Index | None, folder: Path, model: str) -> Known:
    """All that the index and the parts in `folder` hold of the model with this SHA-256."""
    known = Known()
    if index is not None:
        sizes, times, digests = (index.table[name].to_pylist() for name in FILE)
        keys = zip(index.table["path"].to_pylist(), boxes(index.table), strict=True)
        stamps = (Stamp(*stamp) for stamp in zip(sizes, times, digests, strict=True))
        _add(known, index.vectors, zip(keys, stamps, strict=True))
    for part in read_parts(folder, model):
        _add(known, part.vectors, ((entry.key, entry.stamp) for entry in part.entries))
        known.skipped.update(part.skipped)
    return known


def _add(known: Known, vectors, rows) -> None:
    number = len(known.vectors)
    known.vectors.append(vectors)
    for row, (key, stamp) in enumerate(rows):
        known.by_key[key] = (stamp, (number, row))
        known.by_content[stamp.sha256, key[1]] = (number, row)
