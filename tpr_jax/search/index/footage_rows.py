"""The people that were found in videos and whole photos, as the rows of an index.

A person of a video is a row: its photo is the best crop of the track, its vector is the mean of the best few
crops, and its box is in pixels of the video's frame. A person of a photo is a row with the photo and a box.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path

from tpr_jax.footage.scan import Scan, read_scan, remove_other_crops, remove_scan
from tpr_jax.search.index.footage_manifest import (
    MANIFEST,
    FootageOptions,
    parse_clock,
    read_manifest,
    source_key,
)
from tpr_jax.search.index.gallery import Gallery, NoPhotosError, Photo
from tpr_jax.search.index.names import CROPS, scanned_photos
from tpr_jax.utils.files import list_matching, write_json


def scanned_gallery(folder: str | os.PathLike, source: str | os.PathLike) -> Gallery | None:
    """Returns the people that `scan_source` found in a source, None if it was not called for it.

    Raises:
      UserError: nobody was found.
    """
    folder = Path(folder).resolve()
    entry = read_manifest(folder)["sources"].get(source_key(source))
    if entry is None:
        return None
    options, root = FootageOptions(**entry["options"]), Path(entry["root"])
    crops = folder / CROPS
    common = Path(os.path.commonpath([root, crops])) if entry["photos"] else crops
    clocks = {one["path"]: options.clock or one.get("time") for one in entry["videos"]}
    has_clock = any(clocks.values()) or any(one["time"] for one in entry["photos"])
    photos, skipped = [], [tuple(pair) for pair in entry["skipped"]]
    for one in entry["videos"]:
        result = read_scan(crops / one["folder"])
        if result is None:
            skipped.append((one["path"], "its crops are gone: index it again with --detect"))
            continue
        prefix = (crops / one["folder"]).relative_to(common)
        time_at = partial(_time_at, clocks[one["path"]], has_clock)
        photos += _people_of_video(one["path"], result, prefix, options, time_at)
    prefix = root.relative_to(common) if entry["photos"] else Path()
    for one in entry["photos"]:
        photos += _people_of_photo(one, prefix, options, has_clock)
    if not photos:
        why = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise NoPhotosError(
            f"{source}: no people were found{why}; try a lower --score or --min_height, or another --detect"
        )
    return Gallery(common, photos, skipped, entry["left_out"], (source_key(source),))


def prune(folder: Path, sources: Iterable[str]) -> None:
    """Removes crops that the index no longer shows: of other sources, and beside the best of a track."""
    manifest = read_manifest(folder)
    kept = set(sources)
    entries = {name: entry for name, entry in manifest["sources"].items() if name in kept}
    if entries != manifest["sources"]:
        write_json(folder / MANIFEST, {**manifest, "sources": entries})
    folders = {one["folder"]: entry for entry in entries.values() for one in entry["videos"]}
    files = {entry["photos_file"] for entry in entries.values()}
    for path in filter(Path.is_dir, list_matching(folder / CROPS, r"(?s:.+)")):
        if path.name not in folders:
            remove_scan(path)
        elif not folders[path.name]["options"]["keep_crops"] and (result := read_scan(path)):
            remove_other_crops(path, [track.crops[0] for track in result.tracks])
    for path in scanned_photos(folder):
        if path.name not in files:
            with contextlib.suppress(OSError):
                path.unlink()


def _camera(path: str, options: FootageOptions) -> str:
    return options.camera if options.camera is not None else Path(path).stem


def _time_at(clock: str | None, has_clock: bool, seconds: float) -> str | float | None:
    """Returns the time of a frame: by its video's clock, else seconds, unless other rows have clocks."""
    if clock:
        moment = parse_clock(clock) + timedelta(seconds=round(seconds, 3))
        return moment.isoformat(sep=" ", timespec="milliseconds")
    return None if has_clock else round(seconds, 3)


def _people_of_video(
    path: str,
    result: Scan,
    prefix: Path,
    options: FootageOptions,
    time_at: Callable[[float], str | float | None],
) -> list[Photo]:
    return [
        Photo(
            (prefix / track.crops[0]).as_posix(),
            track.best.box,
            {
                "camera": _camera(path, options),
                "time": time_at(track.best.seconds),
                "video": path,
                "frame": track.best.frame,
                "track": track.number if options.tracks else None,
                "score": track.best.score,
            },
            tuple((prefix / crop).as_posix() for crop in track.crops),
        )
        for track in result.tracks
    ]


def _people_of_photo(entry: Mapping, prefix: Path, options: FootageOptions, has_clock: bool) -> list[Photo]:
    camera = options.camera if options.camera is not None else Path(entry["path"]).parent.name or None
    names = ("video", "frame", "track")
    boxes = dict.fromkeys(tuple(row[:4]) for row in entry["people"])
    scores = {tuple(row[:4]): row[4] for row in reversed(entry["people"])}
    return [
        Photo(
            (prefix / entry["path"]).as_posix(),
            box,
            {"camera": camera, "time": entry["time"] if has_clock else None}
            | dict.fromkeys(names)
            | {"score": scores[box]},
        )
        for box in boxes
    ]
