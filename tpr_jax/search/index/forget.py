"""Removes people from an index for good: `python -m tpr_jax.search forget`.

The order makes a kill at any moment harmless. The list of what was forgotten is written first, then the new
index replaces the old one, and then everything else that holds something of these people is removed. A run of
`forget` or `index` completes what a killed one has left.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from tpr_jax.errors import UserError
from tpr_jax.footage.scan import remove_tracks
from tpr_jax.search.index import shards, store
from tpr_jax.search.index.footage_manifest import MANIFEST, read_manifest
from tpr_jax.search.index.forgotten import (
    FORGOTTEN,
    Forgotten,
    ForgottenPhoto,
    ForgottenTrack,
    crop_track,
    keep_known,
    read_forgotten,
    video_key,
    write_forgotten,
)
from tpr_jax.search.index.merge import write_rows
from tpr_jax.search.postgres import update as postgres
from tpr_jax.search.query.search import public_table
from tpr_jax.search.query.where import matching
from tpr_jax.utils import locking
from tpr_jax.utils.files import write_json, write_text

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
        chosen = matching(public_table(index), where)
        earlier = read_forgotten(folder)
        forgotten = earlier.combine(_describe(index, chosen, log))
        removed = _is_forgotten(index, forgotten)
        if removed.all():
            raise UserError(
                f"--where {where}: all {len(removed):,} rows would be removed: to remove the whole index, "
                f"delete the folder {folder}"
            )
        if has_store := removed.any() and "store" in index.info:
            # First: an unreachable server leaves the list and the index as they are.
            postgres.delete(folder, np.flatnonzero(removed).tolist())
        if forgotten != earlier:
            write_forgotten(folder, forgotten)
        if removed.any():
            write_rows(folder, index, np.flatnonzero(~removed).tolist(), len(forgotten))
        if has_store:
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
            (folder / store.CROPS / scan / "tracks.json").unlink(missing_ok=True)
        for path in (folder / store.CROPS).glob("photos-*.jsonl"):
            _rewrite_lines(path, lambda entry: None if entry["stamp"][0] in forgotten.sizes else entry)
        (folder / FORGOTTEN).unlink(missing_ok=True)
        return len(forgotten)


def scrub(folder: Path) -> int:
    """Removes what files beside the index hold of people who were forgotten; call it while it is locked.

    These are the crops and boxes of videos, the boxes of photos, vectors that an interrupted run has left,
    and the scores of all rows that `chance` keeps.

    Returns:
      The number of crops that were removed.
    """
    forgotten = read_forgotten(folder)
    if not forgotten:
        return 0
    (folder / store.CHANCE).unlink(missing_ok=True)
    shards.remove_shards(folder / "parts")
    crops = 0
    for scan in sorted({track.scan for track in forgotten.tracks}):
        crops += remove_tracks(
            folder / store.CROPS / scan, lambda crop, scan=scan: forgotten.has_track(scan, crop)
        )
    _scrub_photos(folder, forgotten)
    return crops


def _scrub_photos(folder: Path, forgotten: Forgotten) -> None:
    """Removes the boxes of people who were forgotten from the results of searching photos of scenes."""
    if not any(photo.box for photo in forgotten.photos):
        return
    manifest = read_manifest(folder)
    affected: dict[str, Callable] = {}
    for entry in manifest["sources"].values():
        for one in entry["photos"]:
            if one["stamp"][0] in forgotten.sizes:
                affected[one["path"]] = forgotten.file_boxes(Path(entry["root"], one["path"]))

    def without(entry: dict) -> dict:
        is_forgotten = affected.get(entry.get("path", ""))
        return (
            entry if is_forgotten is None else {**entry, "people": keep_known(entry["people"], is_forgotten)}
        )

    sources = {
        name: {**entry, "photos": [without(one) for one in entry["photos"]]}
        for name, entry in manifest["sources"].items()
    }
    if sources != manifest["sources"]:
        write_json(folder / MANIFEST, {**manifest, "sources": sources})
    for path in (folder / store.CROPS).glob("photos-*.jsonl"):
        _rewrite_lines(path, without)


def _rewrite_lines(path: Path, change: Callable[[dict], dict | None]) -> None:
    """Replaces each line after the header of a file of JSON lines; drops those for which `change` is None."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    changed = [change(json.loads(line)) for line in lines if _is_json(line)]
    text = "".join(json.dumps(entry) + "\n" for entry in changed if entry is not None)
    if text != "".join(f"{line}\n" for line in lines):
        write_text(path, f"{header}\n{text}")


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:  # half a line of a killed process
        return False
    return True


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
    crops = Path(index.folder, store.CROPS).is_dir()
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
    rows = f"{removed.rows:,} {'row' if removed.rows == 1 else 'rows'}"
    copies = f" ({removed.copies:,} of them the same photos under other names)" if removed.copies else ""
    crops = f"{removed.crops:,} {'crop' if removed.crops == 1 else 'crops'}"
    kept = "photos and videos" if removed.videos else "photos"
    return f"{rows}{copies}, {crops} removed; the {kept} themselves stay"
