"""The index that a server answers from, and the thread that takes up a newer one from the disk.

A request uses one `Snapshot` from its beginning to its end. `LiveIndex.swap` replaces the current snapshot by
one assignment, so that no request waits, fails, or sees a mixture of two indexes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tpr_jax.errors import UserError
from tpr_jax.search.index.store import FILE_COLUMNS, INFO_FILE, KEY_COLUMNS, Index
from tpr_jax.search.query.columns import describe_columns
from tpr_jax.search.query.engine import Engine
from tpr_jax.search.query.search import Searcher
from tpr_jax.search.server import images
from tpr_jax.weights.model_card import read_title

pc: Any = pyarrow.compute  # creates its functions when it is imported

POLL_SECONDS = 1.0
RETRY_POLLS = 30  # polls after which an index that could not be opened is tried again, though it is unchanged
CHANGED_NOTE = "the index has changed since row {row} was found: it may be another photo"


@dataclass(frozen=True)
class Snapshot:
    """An opened index, with what the server derives from it once; see `make_snapshot`.

    Attributes:
      searcher: the index and its model.
      version: identifies the content of the index.
      model: the model as the page names it, see `describe_model`.
      columns: the columns as `describe_columns` describes them.
      thumbnail: returns the small JPEG of a row, and keeps the last ones.
    """

    searcher: Searcher
    version: str
    model: str
    columns: list[dict]
    thumbnail: Callable[[int], bytes]

    @property
    def count(self) -> int:
        """The number of photos."""
        return len(self.searcher.index.vectors)

    @property
    def forgotten(self) -> int:
        """The number of people and photos that `search forget` has removed."""
        return self.searcher.index.info.get("forgotten", 0)


def make_snapshot(searcher: Searcher, blur_faces: bool = False) -> Snapshot:
    """Derives from an opened index what the server needs."""
    small = functools.partial(images.photo_jpeg, searcher.index, size="small", blur_faces=blur_faces)
    thumbnail = functools.lru_cache(1024)(small)
    return Snapshot(
        searcher=searcher,
        version=index_version(searcher.index),
        model=describe_model(searcher.model.source),
        columns=describe_columns(searcher.index),
        thumbnail=thumbnail,
    )


def describe_model(source: str) -> str:
    """Describes a model without its place on this machine: method and data set of a run's, else its name.

    A run saves its model in a folder `model`, which says nothing. A model without a card of method and data
    set is called by the folder of the run.
    """
    path = Path(source)
    title = read_title(path)
    name = f"{path.parent.name}/{path.name}" if path.name == "model" and path.parent.name else path.name
    return title or name


def index_version(index: Index) -> str:
    """Returns twelve digits that change whenever the rows of the index may have changed.

    They depend on the content alone: `index.json`, and the photos with their boxes, in order. An index that
    is removed and made again may have the same `index.json` for other photos.
    """
    digest = hashlib.sha256(json.dumps(index.info, sort_keys=True).encode())
    for name in (*KEY_COLUMNS, FILE_COLUMNS[2]):
        values = index.table[name]
        filled = values.fill_null(0) if pa.types.is_integer(values.type) else values
        for buffer in (buffer for chunk in filled.chunks for buffer in chunk.buffers() if buffer):
            digest.update(buffer)
    return digest.hexdigest()[:12]


def _refuse(query: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError("an index that was replaced is not searched")


_NO_ENGINE = Engine("none", _refuse)


class LiveIndex:
    """The current snapshot, and the one before it, whose photos pages may still show.

    Args:
      searcher: the index and its model.
      blur_faces: blur the heads of people in all photos.
    """

    def __init__(self, searcher: Searcher, blur_faces: bool = False):
        self.blur_faces = blur_faces
        self._snapshots: tuple[Snapshot, ...] = (make_snapshot(searcher, blur_faces),)  # newest first

    @property
    def current(self) -> Snapshot:
        """The snapshot that new requests use."""
        return self._snapshots[0]

    def swap(self, snapshot: Snapshot) -> None:
        """Makes a snapshot the current one. Requests that have begun keep theirs.

        The one before is kept for its photos, unless somebody was forgotten since: it could still show them.
        """
        if snapshot.forgotten != self.current.forgotten:
            self._snapshots = (snapshot,)
            return
        # Of the one before, only photos and rows are asked for; an engine may fill an accelerator's memory.
        without_engine = dataclasses.replace(self.current.searcher, engine=_NO_ENGINE)
        self._snapshots = (snapshot, dataclasses.replace(self.current, searcher=without_engine))

    def find(self, version: str | None) -> Snapshot | None:
        """Returns the snapshot of a version, the current one without a version, None if it is not kept."""
        return _of_version(self._snapshots, version)

    def find_rows(
        self, rows: Sequence[int], version: str | None
    ) -> tuple[Snapshot, list[int | None], list[str]]:
        """Finds photos of a version of the index in the current one.

        Args:
          rows: their rows in that version.
          version: the version; None means the current one.

        Returns:
          The current snapshot, the rows there, None for photos that are gone, and notes.
        """
        snapshots = self._snapshots
        current, old = snapshots[0], _of_version(snapshots, version)
        if old is current:
            return current, list(rows), []
        if old is None:
            return current, list(rows), [CHANGED_NOTE.format(row=row) for row in rows]
        tables = (old.searcher.index.table, current.searcher.index.table)
        return current, [find_photo(tables[0], row, tables[1]) for row in rows], []


def _of_version(snapshots: tuple[Snapshot, ...], version: str | None) -> Snapshot | None:
    if version is None:
        return snapshots[0]
    return next((one for one in snapshots if one.version == version), None)


def find_photo(old: pa.Table, row: int, new: pa.Table) -> int | None:
    """Returns the row of a photo of one table in another: same content, or else name, and same box."""
    if not 0 <= row < old.num_rows:
        return None
    photo = old.slice(row, 1).select([*KEY_COLUMNS, FILE_COLUMNS[2]]).to_pylist()[0]
    for name in (FILE_COLUMNS[2], KEY_COLUMNS[0]):
        same = pc.fill_null(pc.equal(new[name], photo[name]), False)
        for candidate in np.flatnonzero(same.to_numpy()).tolist():
            if all(new[box][candidate].as_py() == photo[box] for box in KEY_COLUMNS[1:]):
                return candidate
    return None


class Signature(NamedTuple):
    """Tells whether `index.json` was replaced, without reading it."""

    inode: int
    size: int
    mtime_ns: int


def read_signature(folder: str | os.PathLike) -> Signature | None:
    """Returns the signature of an index's `index.json`, or None if it does not exist."""
    try:
        status = os.stat(Path(folder) / INFO_FILE)
    except OSError:
        return None
    return Signature(status.st_ino, status.st_size, status.st_mtime_ns)


class Follower:
    """Takes up the index on the disk when it has changed, and keeps the current one if that fails.

    Args:
      live: the index that the server answers from.
      folder: the index on the disk.
      open_newer: opens it, given the current `Searcher`, so that the first query is as fast as later ones.
      log: called with a line for each index that is taken up, and for each new reason why one is not.
      seen: the signature of the folder before the current index was opened.
    """

    def __init__(
        self,
        live: LiveIndex,
        folder: str | os.PathLike,
        open_newer: Callable[[Searcher], Searcher],
        log: Callable[[str], None],
        seen: Signature | None,
    ):
        self.live, self.folder, self.open_newer, self.log = live, folder, open_newer, log
        self._seen, self._reason, self._polls_to_retry = seen, "", 0

    def poll(self) -> None:
        """Looks at the folder once."""
        signature = read_signature(self.folder)
        self._polls_to_retry -= bool(self._reason)
        if signature == self._seen and not (self._reason and self._polls_to_retry <= 0):
            return
        self._seen = signature
        try:
            snapshot = make_snapshot(self.open_newer(self.live.current.searcher), self.live.blur_faces)
        except Exception as error:  # whatever it is, the server keeps the index that it has
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if reason != self._reason:
                self.log(f"warning: {reason}; still serving the {self.live.current.count:,} photos of before")
            self._reason, self._polls_to_retry = reason, RETRY_POLLS
            return
        self._reason = ""
        if snapshot.version != self.live.current.version:
            self.live.swap(snapshot)
            self.log(f"the index has changed: {snapshot.count:,} photos now")


@contextlib.contextmanager
def following(follower: Follower, seconds: float = POLL_SECONDS) -> Generator[None]:
    """Polls in a thread, every so many seconds, until the context ends."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            follower.poll()

    thread = threading.Thread(target=run, name="follow-index")
    thread.start()
    try:
        yield
    finally:
        ended.set()  # does not wait for an index that is being opened, see `serve.exit_if_busy`
