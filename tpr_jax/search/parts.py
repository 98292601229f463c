"""What is encoded but not yet in an index: files that an interrupted run leaves and the next one uses."""

import contextlib
import json
import uuid
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float16

from tpr_jax.search.encode import Stamp
from tpr_jax.search.gallery import Photo
from tpr_jax.writing import write_whole


class Entry(NamedTuple):
    """A photo that was encoded: its key, its file as it was, and the row of its vector."""

    key: tuple
    stamp: Stamp
    row: int


class Part(NamedTuple):
    """A file of them; `skipped` maps the keys of photos that could not be read to why."""

    vectors: Float16[np.ndarray, "n e"]
    entries: list[Entry]
    skipped: dict[tuple, str]


def write_part(
    folder: Path,
    model: str,
    done: Sequence[tuple[Photo, Stamp]],
    vectors: Float16[np.ndarray, "n e"],
    skipped: Sequence[tuple[Photo, str]] = (),
) -> None:
    """Writes vectors of the model with this SHA-256, under a name of its own.

    Raises UserError as `write_whole`.
    """
    lists = {
        "photos": [[p.path, p.box, s.size, s.mtime_ns, s.sha256.hex()] for p, s in done],
        "skipped": [[p.path, p.box, why] for p, why in skipped],
    }
    texts = {name: np.frombuffer(json.dumps(value).encode(), np.uint8) for name, value in lists.items()}

    def save(temporary: str) -> None:
        with open(temporary, "wb") as file:  # np.savez would add an ending to the temporary name
            np.savez(file, vectors=vectors, **texts)

    # Processes of several machines may write into the folder.
    write_whole(folder / f"{model[:16]}-{uuid.uuid4().hex}.npz", save)


def read_parts(folder: Path, model: str) -> list[Part]:
    """All parts of the model; what is damaged, or of another model, is passed over."""
    found = []
    for path in sorted(folder.glob(f"{model[:16]}-*.npz")):
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
            with np.load(path, allow_pickle=False) as part:
                vectors, photos, skipped = (part[name] for name in ("vectors", "photos", "skipped"))
            entries = [
                Entry(_key(name, box), Stamp(size, mtime, bytes.fromhex(sha)), row)
                for row, (name, box, size, mtime, sha) in enumerate(json.loads(photos.tobytes()))
            ]
            why = {_key(name, box): text for name, box, text in json.loads(skipped.tobytes())}
            if len(entries) == len(vectors):
                found.append(Part(vectors, entries, why))
    return found


def _key(name: str, box: list | None) -> tuple:
    return name, tuple(box) if box else None


def remove_parts(folder: Path) -> None:
    """Removes all parts, those of other models too."""
    for path in folder.glob("*.npz"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
