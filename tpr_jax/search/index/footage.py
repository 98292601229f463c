"""Finds people in videos and whole photos for an index.

`scan_source` does the work and records it in `footage.json`, from which `footage_rows` makes the rows of the
index without opening a video.
"""

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from tpr_jax.data.batches import worker_threads
from tpr_jax.data.images.formats import FORMATS, suffix_of
from tpr_jax.data.images.formats import SUFFIXES as PHOTO_SUFFIXES
from tpr_jax.data.images.read import read_image
from tpr_jax.data.images.size import upright_size
from tpr_jax.errors import UserError
from tpr_jax.footage import journal
from tpr_jax.footage.boxes import BoxFile, read_box_file
from tpr_jax.footage.crops import others_inside
from tpr_jax.footage.detections import Detections, Detector, limit, pad_box
from tpr_jax.footage.hog import HogDetector
from tpr_jax.footage.onnx import load_detector
from tpr_jax.footage.opencv import opencv
from tpr_jax.footage.recorded import read_recorded
from tpr_jax.footage.scan import Scan, ScanSettings, read_scan, scan, scan_folder
from tpr_jax.footage.video import SUFFIXES as VIDEO_SUFFIXES
from tpr_jax.search.index import foreign
from tpr_jax.search.index.folder import walk
from tpr_jax.search.index.footage_manifest import (
    FootageOptions,
    check_options,
    read_manifest,
    record,
    source_key,
)
from tpr_jax.search.index.forgotten import Forgotten, keep_known, read_forgotten
from tpr_jax.search.index.gallery import NoPhotosError
from tpr_jax.search.index.names import CROPS
from tpr_jax.search.index.store import known_sources, other_source_error, read_info
from tpr_jax.utils import line_log, locking, progress
from tpr_jax.utils.hashing import add_file
from tpr_jax.utils.plural import counted
from tpr_jax.utils.signals import Stopped, catch_signals

Log = Callable[[str], object]


class _Kind(NamedTuple):
    """A detector, and the settings that suit it."""

    fingerprint: str
    for_frame: Callable[[str, int | None], Detector]
    boxes: BoxFile | None
    score: float
    sure: float
    min_sightings: int


class _Found(NamedTuple):
    """The files of a source, relative to its root."""

    root: Path
    videos: list[str]
    photos: list[str]
    skipped: list[tuple[str, str]]
    left_out: Mapping[str, int]


def scan_source(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    options: FootageOptions,
    *,
    exclude: Sequence[str] = (),
    add: bool = False,
    replace: bool = False,
    log: Log = lambda line: None,
) -> None:
    """Searches people in a video, in a folder of videos and photos, or in the files that a pattern matches.

    Videos and photos that are unchanged since the last call are not opened again; a video that was
    interrupted resumes at the frame where it was.

    Args:
      source: a video, a folder, or a pattern such as `cams/*.mp4`.
      folder: the index.
      options: the options.
      exclude: patterns of files and folders to leave out.
      add: the source is to be indexed beside others.
      replace: it is to be indexed in place of others.
      log: called with lines about the progress.

    Raises:
      UserError: an option is invalid, there are no files, or the index is of other photos.
      Stopped: SIGINT or SIGTERM was received; the next call resumes.
    """
    check_options(options)
    folder = Path(folder)
    _check_sources(folder, source, add or replace)
    opencv()
    kind = _make_kind(options.detect)
    found = _collect(Path(source), folder, exclude)
    if kind.boxes and not kind.boxes.names_videos and len(found.videos) > 1:
        raise UserError(
            f"--detect {options.detect}: does not say to which of the {len(found.videos):,} videos of "
            f"{source} its boxes belong: index the videos one by one, with --add"
        )
    foreign.check_source(folder, source)
    with locking.hold(folder, "--index", "writing this index", log):
        if read_info(folder) is None:
            foreign.check_new(folder)
        entry = read_manifest(folder)["sources"].get(source_key(source), {})
        earlier = {one["path"]: one for one in entry.get("videos", ())}
        record(folder, source, _scan_files(found, folder, options, kind, log, earlier))


def _check_sources(folder: Path, source: str | os.PathLike, allowed: bool) -> None:
    """Raises UserError if an index is of other photos: before the work of hours, not after it."""
    info = read_info(folder)
    if info is None or allowed:
        return
    known = known_sources(info)
    if source_key(source) not in known and any(os.path.exists(name) for name in known):
        raise other_source_error(folder, known, source)


def _make_kind(detect: str) -> _Kind:
    """Loads the detector. Raises UserError if there is none of this name, or it cannot be read."""
    if detect == "hog":
        hog = HogDetector()
        return _Kind(hog.fingerprint, lambda name, frame: hog, None, score=0.2, sure=0.5, min_sightings=2)
    path = Path(detect)
    if not path.exists():
        raise UserError(f"--detect {detect}: no such file; give hog, a model.onnx, or a file of boxes")
    if path.suffix.lower() == ".onnx":
        model = load_detector(path)
        return _Kind(model.fingerprint, lambda name, frame: model, None, score=0.1, sure=0.5, min_sightings=2)
    boxes = read_box_file(path, f"boxes {_digest(path)}")

    def for_frame(name: str, frame: int | None) -> Detector:
        return lambda pixels: boxes.find(name, frame, (pixels.shape[1], pixels.shape[0]))

    return _Kind(boxes.fingerprint, for_frame, boxes, score=0.0, sure=0.0, min_sightings=1)


def _digest(path: Path) -> str:
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0")
        add_file(digest, file)
    return digest.hexdigest()


def _collect(source: Path, folder: Path, exclude: Sequence[str]) -> _Found:
    """Finds the videos and photos of a source. Raises UserError if there are none."""
    if source.is_dir():
        root = source.resolve()
        paths, skipped, left_out = walk(root, folder.resolve(), exclude, VIDEO_SUFFIXES)
    elif source.is_file():
        root, paths, skipped, left_out = source.resolve().parent, [source.name], [], Counter()
    else:
        matches = [Path(p).resolve() for p in sorted(glob.glob(str(source), recursive=True))]
        files = [path for path in matches if path.is_file()]
        if not files:
            raise NoPhotosError(f"{source}: no such video, folder or pattern")
        root = Path(os.path.commonpath([path.parent for path in files]))
        known = [path for path in files if suffix_of(path.name) in PHOTO_SUFFIXES | VIDEO_SUFFIXES]
        left_out = Counter(suffix_of(path.name) or "no ending" for path in files if path not in known)
        paths, skipped = [path.relative_to(root).as_posix() for path in known], []
    photos = [path for path in paths if suffix_of(path) in PHOTO_SUFFIXES]
    videos = [path for path in paths if suffix_of(path) not in PHOTO_SUFFIXES]
    if not paths:
        raise NoPhotosError(f"{source}: has no videos or photos")
    return _Found(root, videos, photos, list(skipped), left_out)


def _scan_files(
    found: _Found,
    folder: Path,
    options: FootageOptions,
    kind: _Kind,
    log: Log,
    earlier: Mapping[str, Mapping],
) -> dict:
    """Scans all files; returns the entry of `footage.json`. `earlier` has the videos of the earlier one."""
    skipped, videos, forgotten = list(found.skipped), [], read_forgotten(folder)
    settings = _scan_settings(options, kind)
    for number, name in enumerate(found.videos, 1):
        path = found.root / name
        try:
            stamp = journal.stamp(path)
            where = scan_folder(folder / CROPS, path, settings)
            if read_scan(where) is None and forgotten.has_video(path):
                where = _earlier_scan(folder, earlier.get(name), name, log)
            result = _scan_video(path, name, where, settings, kind, log, place=(number, len(found.videos)))
        except UserError as error:
            if "space left" in str(error) or "quota" in str(error):
                raise
            skipped.append((name, str(error).removeprefix(f"{path}: ")))
            log(f"skipped: {name}: {skipped[-1][1]}")
            continue
        for note in result.notes:
            log(f"note: {note}")
        people = counted(len(result.tracks), "person", "people")
        log(f"{name}: {people} in {counted(result.frames, 'frame')}")
        time = _recorded(path, stamp, earlier.get(name))
        if time and not options.clock:
            log(f"{name}: begins at {time} by its metadata")
        videos.append({"path": name, "folder": where.name, "stamp": stamp, "time": time})
    text = json.dumps([dataclasses.asdict(settings), "photos"])
    photos_file = f"photos-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    photos, failed = _scan_photos(found, folder / CROPS / photos_file, settings, kind, log, forgotten)
    return {
        "options": dataclasses.asdict(options),
        "root": str(found.root),
        "videos": videos,
        "photos": photos,
        "photos_file": photos_file,
        "skipped": [*skipped, *failed],
        "left_out": dict(found.left_out),
    }


def _recorded(path: Path, stamp: list, earlier: Mapping | None) -> str | None:
    """Returns when a video begins by its metadata, as ISO 8601; an unchanged one is not opened again."""
    if earlier and "time" in earlier and earlier["stamp"] == stamp:
        return earlier["time"]
    found = read_recorded(path)
    return None if found is None else found.isoformat(sep=" ")


def _earlier_scan(folder: Path, earlier: Mapping | None, name: str, log: Log) -> Path:
    """Returns the earlier scan of a video in which somebody was forgotten, whom a new scan would find again.

    Raises:
      UserError: it is not there.
    """
    where = folder / CROPS / earlier["folder"] if earlier else None
    if where is None or read_scan(where) is None:
        raise UserError(
            "somebody in it was forgotten, whom a new search would find; to allow that, run forget --recall"
        )
    log(f"note: {name}: keeps the people of its earlier search, because somebody in it was forgotten")
    return where


def _scan_settings(options: FootageOptions, kind: _Kind) -> ScanSettings:
    return ScanSettings(
        kind.fingerprint,
        every=options.every,
        start=options.start,
        end=options.end,
        min_height=options.min_height,
        score=kind.score if options.score is None else options.score,
        sure=max(kind.sure, options.score or 0),
        pad=options.pad,
        min_sightings=kind.min_sightings,
        tracks=options.tracks,
    )


def _scan_video(
    path: Path,
    name: str,
    where: Path,
    settings: ScanSettings,
    kind: _Kind,
    log: Log,
    *,
    place: tuple[int, int],
) -> Scan:
    """Scans one video. Raises UserError as `scan`, and Stopped on a signal."""
    if (done := read_scan(where)) is not None:
        return done._replace(notes=[])
    log(f"video {place[0]:,} of {place[1]:,}: {name}")
    seconds = 0.0
    wanted = kind.boxes.frames(name) if kind.boxes else None
    with catch_signals() as received, progress.show(_length(path, settings), "seconds") as bar:

        def update(at: float) -> None:
            nonlocal seconds
            bar.update(max(at - max(seconds, settings.start), 0))
            seconds = at

        result = scan(
            path,
            where,
            lambda frame: kind.for_frame(name, frame),
            settings,
            wanted=wanted,
            workers=max(1, min(worker_threads(), os.cpu_count() or 1)),
            stopped=lambda: bool(received),
            progress=update,
        )
    if result is None:
        number = received.number
        raise Stopped(number, f"stopped at {seconds:.1f} s of {name}; rerun the same command to resume")
    return result


def _length(path: Path, settings: ScanSettings) -> int:
    """Returns about how many seconds of a video are to be scanned."""
    cv2 = opencv()
    capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
    count, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    end = count / rate if rate else 0
    return max(round(min(end, settings.end or end) - settings.start), 1)


def _scan_photos(
    found: _Found, path: Path, settings: ScanSettings, kind: _Kind, log: Log, forgotten: Forgotten
) -> tuple[list[dict], list[tuple[str, str]]]:
    """Returns an entry per photo with people, and (photo, reason) of those that cannot be read."""
    header = {"settings": dataclasses.asdict(settings), "root": str(found.root)}
    entries, failed = [], []
    if not found.photos:
        return entries, failed
    known = {one["path"]: one for one in line_log.read(path, header)}
    done = line_log.LineLog(path, header, resume=bool(known))
    with catch_signals() as received, contextlib.closing(done):
        for name in found.photos:
            try:
                stamp = journal.stamp(found.root / name)
                entry = known.get(name)
                if entry is None or entry["stamp"] != stamp:
                    entry = _scan_photo(found.root / name, name, settings, kind, forgotten)
                    entry["stamp"] = stamp
                    done.append(entry)
                entries.append(entry)
            except UserError as error:
                failed.append((name, str(error).removeprefix(f"{found.root / name}: ")))
            if received:
                raise Stopped(received.number, f"stopped at {name}; rerun the same command to resume")
    people = sum(len(entry["people"]) for entry in entries)
    log(f"{counted(people, 'person', 'people')} in {counted(len(entries), 'photo')}")
    return [entry for entry in entries if entry["people"]], failed


def _scan_photo(
    path: Path, name: str, settings: ScanSettings, kind: _Kind, forgotten: Forgotten
) -> dict[str, Any]:
    """Returns the people of a photo: x, y, width, height in pixels of the upright file, and the score."""
    pixels = read_image(os.fspath(path))
    size = upright_size(path) or (pixels.shape[1], pixels.shape[0])
    found = kind.for_frame(name, None)(pixels)
    if kind.boxes is not None:  # whose boxes are in pixels of the file
        found = kind.boxes.find(name, None, size)
        shown = found
    else:
        shown = _scale(found, size[0] / pixels.shape[1])
    kept = limit(shown, size, settings.min_height, settings.score)
    kept = kept.take(others_inside(kept.boxes) < 1)
    people = [
        [*pad_box(box, settings.pad, size), round(float(score), 4)]
        for box, score in zip(kept.boxes, kept.scores, strict=True)
    ]
    return {
        "path": name,
        "people": keep_known(people, forgotten.file_boxes(path)),
        "time": _exif_time(path),
    }


def _scale(found: Detections, factor: float) -> Detections:
    return found._replace(boxes=(found.boxes * factor).astype("float32"))


def _exif_time(path: Path) -> str | None:
    """Returns when a photo was taken, as ISO 8601, None if its EXIF data do not say."""
    with (
        contextlib.suppress(Exception),
        Image.open(path, formats=FORMATS) as image,
    ):  # damaged EXIF raises any
        exif = image.getexif()
        text = exif.get_ifd(0x8769).get(0x9003) or exif.get(0x0132)
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    return None
