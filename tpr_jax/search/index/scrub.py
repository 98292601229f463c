"""Removes what the files beside an index hold of people who were forgotten."""

import functools
from collections.abc import Callable
from pathlib import Path

from tpr_jax.footage.scan import remove_tracks
from tpr_jax.search.index import names, shards
from tpr_jax.search.index.footage_manifest import MANIFEST, read_manifest
from tpr_jax.search.index.forgotten import Forgotten, keep_known, read_forgotten
from tpr_jax.utils import line_log
from tpr_jax.utils.files import write_json


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
    (folder / names.CHANCE).unlink(missing_ok=True)
    shards.remove_shards(folder / names.PARTS)
    crops = 0
    for scan in sorted({track.scan for track in forgotten.tracks}):
        crops += remove_tracks(folder / names.CROPS / scan, functools.partial(forgotten.has_track, scan))
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
    for path in names.scanned_photos(folder):
        line_log.rewrite(path, without)
