"""Finds vectors that are already computed: those of the index, and those in shards of an interrupted run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float16

from tpr_jax.search.index.encode import Stamp
from tpr_jax.search.index.gallery import Box, Photo
from tpr_jax.search.index.shards import read_shards
from tpr_jax.search.index.store import FILE_COLUMNS, Index, boxes

Key = tuple[str, Box | None]  # `Photo.key`


class Location(NamedTuple):
    """A vector in a `VectorCache`."""

    array: int  # index into `VectorCache.vectors`
    row: int


class CachedVector(NamedTuple):
    """A vector, and the file that it was computed from."""

    stamp: Stamp
    location: Location


@dataclass(frozen=True)
class VectorCache:
    """Vectors that are already computed.

    Attributes:
      vectors: those of the index, if there is one, then those of each shard.
      newest: the newest vector of each photo.
      older: further vectors of a photo, newest first.
      by_content: the vector of each (SHA-256 of the file, box); it finds moved and copied files.
      skipped: why photos could not be read.
      ignored_shards: number of shards of another model, image size or type.
    """

    vectors: list[Float16[np.ndarray, "n e"]] = field(default_factory=list)
    newest: dict[Key, CachedVector] = field(default_factory=dict)
    older: dict[Key, list[CachedVector]] = field(default_factory=dict)
    by_content: dict[tuple[bytes, Box | None], Location] = field(default_factory=dict)
    skipped: dict[Key, str] = field(default_factory=dict)
    ignored_shards: int = 0

    def find_unchanged(self, photo: Photo, size: int, mtime_ns: int) -> CachedVector | None:
        """Returns the vector computed from the photo's file when it had this size and modification time."""
        for cached in (self.newest.get(photo.key), *self.older.get(photo.key, ())):
            if cached and cached.stamp[:2] == (size, mtime_ns):
                return cached
        return None

    def find_content(self, photo: Photo, stamp: Stamp) -> Location | None:
        """Returns the vector computed from the same bytes and box, whatever the file's name."""
        return self.by_content.get((stamp.sha256, photo.box))

    def gather(self, locations: Sequence[Location]) -> Float16[np.ndarray, "n e"]:
        """Returns the vectors at these locations."""
        arrays, rows = np.array(locations, np.int64).reshape(-1, 2).T
        out = np.empty((len(locations), self.vectors[0].shape[1]), np.float16)
        for number in np.unique(arrays):
            mask = arrays == number
            out[mask] = self.vectors[number][rows[mask]]
        return out


def load_cache(index: Index | None, folder: Path, fingerprint: Mapping, root: Path) -> VectorCache:
    """Collects the vectors of an index, and of the shards in a folder.

    Args:
      index: the index; None if there is none yet.
      folder: holds the shards.
      fingerprint: `store.encoder_fingerprint` of the model; shards with another one are ignored.
      root: where the photos are now. If the vectors come from another root, sizes and modification times do
        not identify a file, and only its content does.
    """
    shards, ignored = read_shards(folder, fingerprint)
    cache = VectorCache(ignored_shards=ignored)
    if index is not None:
        sizes, times, digests = (index.table[name].to_pylist() for name in FILE_COLUMNS)
        keys = zip(index.table["path"].to_pylist(), boxes(index.table), strict=True)
        stamps = (Stamp(*stamp) for stamp in zip(sizes, times, digests, strict=True))
        _add(cache, index.vectors, zip(keys, stamps, strict=True), index.info["photos"] == str(root))
    for shard in shards:
        same_root = shard.root == str(root)
        _add(cache, shard.vectors, ((entry.key, entry.stamp) for entry in shard.entries), same_root)
        if same_root:
            cache.skipped.update(shard.skipped)
    return cache


def _add(
    cache: VectorCache, vectors: np.ndarray, entries: Iterable[tuple[Key, Stamp]], same_root: bool
) -> None:
    array = len(cache.vectors)
    cache.vectors.append(vectors)
    for row, (key, stamp) in enumerate(entries):
        location = Location(array, row)
        cache.by_content[stamp.sha256, key[1]] = location
        if not same_root:
            continue
        if key in cache.newest:
            cache.older.setdefault(key, []).insert(0, cache.newest[key])
        cache.newest[key] = CachedVector(stamp, location)
        cache.skipped.pop(key, None)
