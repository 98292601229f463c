"""Removes people from an index for good: `python -m tpr_jax.search forget`.

The order makes a kill at any moment harmless. The list of what was forgotten is written first, then the new
index replaces the old one, and then everything else that holds something of these people is removed. A run of
`forget` or `index` completes what a killed one has left.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from tpr_jax.errors import UserError
from tpr_jax.search.index import names, store
from tpr_jax.search.index.footage_manifest import read_manifest
from tpr_jax.search.index.forgotten import (
    FORGOTTEN,
    Forgotten,
    ForgottenPhoto,
    ForgottenTrack,
    crop_track,
    read_forgotten,
    video_key,
    write_forgotten,
)
from tpr_jax.search.index.merge import write_rows
from tpr_jax.search.index.scrub import scrub
from tpr_jax.search.postgres import update as postgres
from tpr_jax.search.query.where import matching
from tpr_jax.utils import line_log, locking
from tpr_jax.utils.plural import counted

Log = Callable[[str], object]


class Removed(NamedTuple):
    """What `forget` removed.

    Attributes:
      rows: rows of the index.
      copies: those of them that do not meet the condition, but show a photo that does.
      crops: files in `crops/`.
      videos: whether people of videos are among them.
    """

    rows: int
    copies: int
    crops: int
    videos: bool


def forget(folder: str | os.PathLike, where: str, log: Log = lambda line: None) -> Removed:
    """Removes the rows that meet a condition, and everything else that the index holds of them.

    Later runs of `index` leave these people out, see `forgotten`. The photos and videos themselves are not
    touched.

    Args:
      folder: the index.
      where: the condition, see the module `where`.
      log: called with warnings.

    Returns:
      What was removed.

    Raises:
      UserError: there is no index, the condition is invalid or holds for all rows, another process writes the
        index, or a file cannot be written.
    """
    folder = Path(folder)
    store.open_index(folder)  # without one, nothing is locked or created
    with locking.hold(folder, "--index", "writing this index", log):
        store.remove_temporaries(folder)
        index = store.open_index(folder)
        chosen = matching(store.public_table(index), where)
        earlier = read_forgotten(folder)
        forgotten = earlier.combine(_describe(index, chosen, log))
        removed = _is_forgotten(index, forgotten)
        if removed.all():
            raise UserError(
                f"--where {where}: all {len(removed):,} rows would be removed: to remove the whole index, "
                f"delete the folder {folder}"
            )
        if removed.any():
            # First: an unreachable server leaves the list and the index as they are.
            postgres.delete(folder, np.flatnonzero(removed).tolist())
        if forgotten != earlier:
            write_forgotten(folder, forgotten)
        if removed.any():
            write_rows(folder, index, np.flatnonzero(~removed).tolist(), len(forgotten))
            postgres.sync(folder, log=log)
        crops = scrub(folder)
        videos = any(_row_track(index, row) for row in np.flatnonzero(removed).tolist())
        return Removed(int(removed.sum()), int((removed & ~chosen).sum()), crops, videos)


def recall(folder: str | os.PathLike, log: Log = lambda line: None) -> int:
    """Allows `index` to bring everybody back who was forgotten; returns the number of entries of the list.

    People of videos and of scenes come back when `index` searches their videos and photos again, which it
    does in its next run.

    Raises:
      UserError: there is no index, another process writes it, or a file cannot be written.
    """
    folder = Path(folder)
    store.open_index(folder)
    with locking.hold(folder, "--index", "writing this index", log):
        forgotten = read_forgotten(folder)
        for scan in {track.scan for track in forgotten.tracks}:
            (folder / names.CROPS / scan / "tracks.json").unlink(missing_ok=True)
        for path in names.scanned_photos(folder):
            line_log.rewrite(path, lambda entry: None if entry["stamp"][0] in forgotten.sizes else entry)
        (folder / FORGOTTEN).unlink(missing_ok=True)
        return len(forgotten)


def _describe(index: store.Index, chosen: Bool[np.ndarray, " n"], log: Log) -> Forgotten:
    """Returns the entries of the list for some rows of an index."""
    photos, tracks = [], []
    sizes, _, digests = (index.table[name] for name in store.FILE_COLUMNS)
    boxes = store.boxes(index.table)
    for row in np.flatnonzero(chosen).tolist():
        track = _row_track(index, row)
        if track is not None:
            tracks.append(track)
        else:
            photos.append(ForgottenPhoto(sizes[row].as_py(), digests[row].as_py().hex(), boxes[row]))
    videos = []
    for path in _videos(index.folder, {track.scan for track in tracks}):
        key = video_key(path)
        if key is None:
            log(f"note: {path}: is not there; if it comes back, other flags of --detect can find its people")
        else:
            videos.append(key)
    return Forgotten(tuple(photos), tuple(tracks), tuple(videos))


def _videos(folder: Path, scans: set[str]) -> Iterator[Path]:
    """Yields the videos of some scans."""
    for entry in read_manifest(folder)["sources"].values():
        for one in entry["videos"]:
            if one["folder"] in scans:
                yield Path(entry["root"], one["path"])


def _row_track(index: store.Index, row: int) -> ForgottenTrack | None:
    path = Path(index.info["photos"], index.table["path"][row].as_py())
    return crop_track(index.folder, path)


def _is_forgotten(index: store.Index, forgotten: Forgotten) -> Bool[np.ndarray, " n"]:
    """Returns which rows show somebody of the list."""
    paths, digests = (index.table[name].to_pylist() for name in ("path", store.FILE_COLUMNS[2]))
    crops = Path(index.folder, names.CROPS).is_dir()
    removed = np.zeros(len(paths), bool)
    for row, (digest, box) in enumerate(zip(digests, store.boxes(index.table), strict=True)):
        track = _row_track(index, row) if crops else None
        removed[row] = (
            forgotten.has_content(digest.hex(), box) if track is None else forgotten.has_track(*track)
        )
    return removed


def format_removed(removed: Removed) -> str:
    """Formats what was removed, in one line."""
    if not removed.rows and not removed.crops:
        return "no row meets the condition: nothing was removed"
    rows = counted(removed.rows, "row")
    copies = f" ({removed.copies:,} of them the same photos under other names)" if removed.copies else ""
    crops = counted(removed.crops, "crop")
    kept = "photos and videos" if removed.videos else "photos"
    return f"{rows}{copies}, {crops} removed; the {kept} themselves stay"
