"""What is encoded but not yet in an index: files that an interrupted run leaves and the next one uses.

A file is called `part-RUN-RANDOM.npz`, RUN being one more than that of any run before, so files sort by age.
It says with which model, image size and type its vectors were made, and where the photos were.
"""

import contextlib
import json
import re
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float16

from tpr_jax.search.index.encode import Stamp
from tpr_jax.search.index.gallery import Photo
from tpr_jax.utils.files import write_whole

_NAME = re.compile(r"part-(\d{8,})-[0-9a-f]{32}\.npz")


class Entry(NamedTuple):
    """A photo that was encoded: its key, its file as it was, and the row of its vector."""

    key: tuple
    stamp: Stamp
    row: int


class Part(NamedTuple):
    """A file of them; `root` is the folder that paths count from, `skipped` maps the keys of photos that
    could not be read to why."""

    root: str
    vectors: Float16[np.ndarray, "n e"]
    entries: list[Entry]
    skipped: dict[tuple, str]


def recipe(model: Mapping) -> dict:
    """What decides a photo's vector beside the photo, of the `model` of an index: comparable, and JSON."""
    names = ("sha256", "image_size", "dtype", "mean", "std")
    return json.loads(json.dumps({name: model.get(name) for name in names}))


def next_run(folder: Path) -> int:
    """A number larger than that of all parts that are there."""
    runs = (int(match[1]) for path in folder.glob("*.npz") if (match := _NAME.fullmatch(path.name)))
    return max(runs, default=0) + 1


def write_part(
    folder: Path,
    run: int,
    made_by: Mapping,
    root: str,
    done: Sequence[tuple[Photo, Stamp]],
    vectors: Float16[np.ndarray, "n e"],
    skipped: Sequence[tuple[Photo, str]] = (),
) -> None:
    """Writes vectors that a run made by this `recipe`, under a name of its own.

    Raises UserError as `write_whole`.
    """
    texts = {
        "made_by": {**made_by, "root": root},
        "photos": [[p.path, p.box, s.size, s.mtime_ns, s.sha256.hex()] for p, s in done],
        "skipped": [[p.path, p.box, why] for p, why in skipped],
    }
    arrays = {name: np.frombuffer(json.dumps(value).encode(), np.uint8) for name, value in texts.items()}

    def save(temporary: str) -> None:
        with open(temporary, "wb") as file:  # np.savez would add an ending to the temporary name
            np.savez(file, vectors=vectors, **arrays)

    # Processes of several machines may write into the folder.
    write_whole(folder / f"part-{run:08d}-{uuid.uuid4().hex}.npz", save)


def read_parts(folder: Path, made_by: Mapping) -> tuple[list[Part], int]:
    """(all parts that were made by this `recipe`, oldest first; how many were made by another one).

    What is damaged is passed over.
    """
    found, others = [], 0
    for path in sorted(folder.glob("*.npz"), key=_age):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            with np.load(path, allow_pickle=False) as part:
                if "made_by" not in part:  # written before parts said so
                    others += 1
                    continue
                made = json.loads(part["made_by"].tobytes())
                root = made.pop("root")
                if made != made_by:
                    others += 1
                    continue
                vectors, photos, skipped = (part[name] for name in ("vectors", "photos", "skipped"))
            entries = [
                Entry(_key(name, box), Stamp(size, mtime, bytes.fromhex(sha)), row)
                for row, (name, box, size, mtime, sha) in enumerate(json.loads(photos.tobytes()))
            ]
            why = {_key(name, box): text for name, box, text in json.loads(skipped.tobytes())}
            if len(entries) == len(vectors):
                found.append(Part(root, vectors, entries, why))
    return found, others


def _key(name: str, box: list | None) -> tuple:
    return name, tuple(box) if box else None


def _age(path: Path) -> tuple[int, str]:
    match = _NAME.fullmatch(path.name)
    return (int(match[1]) if match else 0), path.name


def remove_parts(folder: Path) -> None:
    """Removes all parts, those of other models too. The oldest go first: what a kill leaves is then newer
    than all that is gone."""
    for path in sorted(folder.glob("*.npz"), key=_age):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
