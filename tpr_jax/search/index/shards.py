"""Vectors that are encoded but not yet in an index: files that an interrupted run leaves for the next one.

A file is called `part-RUN-RANDOM.npz`. RUN is one more than that of any earlier run, so that the names sort
by age. The file records the model, image size and type of its vectors, and where the photos were.
"""

import contextlib
import json
import re
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float16

from tpr_jax.search.index.encode import Stamp
from tpr_jax.search.index.gallery import Box, Photo
from tpr_jax.search.index.names import SHARD
from tpr_jax.utils.files import list_matching, write_whole

_NAME = re.compile(SHARD)


class Entry(NamedTuple):
    """An encoded photo: its key, its file when it was encoded, and the row of its vector."""

    key: tuple[str, Box | None]
    stamp: Stamp
    row: int


class Shard(NamedTuple):
    """The content of a file.

    Attributes:
      root: the folder that paths are relative to.
      vectors: the vectors of the entries.
      entries: the encoded photos.
      skipped: the keys of photos that could not be read -> why.
    """

    root: str
    vectors: Float16[np.ndarray, "n e"]
    entries: list[Entry]
    skipped: dict[tuple[str, Box | None], str]


def next_run(folder: Path) -> int:
    """Returns a number larger than that of every shard in a folder."""
    return max((_age(path)[0] for path in list_matching(folder, SHARD)), default=0) + 1


def write_shard(
    folder: Path,
    run: int,
    fingerprint: Mapping,
    root: str,
    encoded: Sequence[tuple[Photo, Stamp]],
    vectors: Float16[np.ndarray, "n e"],
    *,
    skipped: Sequence[tuple[Photo, str]] = (),
) -> None:
    """Writes a shard under a new name.

    Args:
      folder: where to write it.
      run: the number of this run, see `next_run`.
      fingerprint: the model's `encoder_fingerprint`.
      root: the folder that the photos' paths are relative to.
      encoded: the encoded photos, and their files when they were encoded.
      vectors: their vectors.
      skipped: photos that could not be read, and why.

    Raises:
      UserError: as `write_whole`.
    """
    texts = {
        "made_by": {**fingerprint, "root": root},
        "photos": [[p.path, p.box, s.size, s.mtime_ns, s.sha256.hex()] for p, s in encoded],
        "skipped": [[p.path, p.box, reason] for p, reason in skipped],
    }
    arrays: dict[str, Any] = {
        name: np.frombuffer(json.dumps(value).encode(), np.uint8) for name, value in texts.items()
    }

    def save(temporary: str) -> None:
        with open(temporary, "wb") as file:  # given a name, np.savez would append a suffix to it
            np.savez(file, vectors=vectors, **arrays)

    # The name is random because processes on several machines may write to the folder.
    write_whole(folder / f"part-{run:08d}-{uuid.uuid4().hex}.npz", save)


def read_shards(folder: Path, fingerprint: Mapping) -> tuple[list[Shard], int]:
    """Returns the shards with this fingerprint, oldest first, and the number of those with another one.

    Damaged files are ignored.
    """
    shards, others = [], 0
    for path in sorted(list_matching(folder, SHARD), key=_age):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            with np.load(path, allow_pickle=False) as file:
                if "made_by" not in file:  # written by a version that did not record it
                    others += 1
                    continue
                made_by = json.loads(file["made_by"].tobytes())
                root = made_by.pop("root")
                if made_by != fingerprint:
                    others += 1
                    continue
                vectors, photos, skipped = (file[name] for name in ("vectors", "photos", "skipped"))
            entries = [
                Entry(_key(name, box), Stamp(size, mtime, bytes.fromhex(sha)), row)
                for row, (name, box, size, mtime, sha) in enumerate(json.loads(photos.tobytes()))
            ]
            reasons = {_key(name, box): reason for name, box, reason in json.loads(skipped.tobytes())}
            if len(entries) == len(vectors):
                shards.append(Shard(root, vectors, entries, reasons))
    return shards, others


def _key(name: str, box: list | None) -> tuple[str, Box | None]:
    return name, tuple(box) if box else None


def _age(path: Path) -> tuple[int, str]:
    match = _NAME.fullmatch(path.name)
    return int((match and match[1]) or 0), path.name


def remove_shards(folder: Path) -> None:
    """Removes all shards, also those of other models.

    Removes the oldest first, so that if the process is killed only the newest remain.
    """
    for path in sorted(list_matching(folder, SHARD), key=_age):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
