"""Scans a video for people: frames, boxes, tracks and the best crops of each track, as JPEG files.

A folder per video and settings holds

    journal.jsonl    the frames that are done (`journal`)
    f000120-03.jpg   the crop of box 3 of frame 120, if it is among the best of its track
    tracks.json      the result, written last: with it, the video is not opened again
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.footage import journal
from tpr_jax.footage.crops import Sighting, best_sightings, colors, crop_quality, others_inside, sharpness
from tpr_jax.footage.detections import Detections, Detector, limit, pad_box
from tpr_jax.footage.opencv import opencv
from tpr_jax.footage.tracks import Tracker, TrackSettings
from tpr_jax.footage.video import Done, Frame, Span, checksum, next_due, read_frames
from tpr_jax.utils.files import remove_leftovers_matching, write_json, write_whole

CROPS_PER_TRACK = 4
VERSION = 1  # of the files; a change scans videos again
_FOLDER, _CROP = r".+-[0-9a-f]{12}", r"f\d+-\d+\.jpg"  # names
_FILES = rf"journal\.jsonl|tracks\.json|{_CROP}"


@dataclass(frozen=True)
class ScanSettings:
    """What determines the result of a scan.

    Attributes:
      detector: the detector's fingerprint.
      every: seconds between two frames.
      start: seconds from the start of the file.
      end: likewise; None for its end.
      min_height: the minimum height of a person in pixels.
      score: the minimum score of a box.
      sure: the score from which a box may begin a track.
      pad: share of its sides by which a box is enlarged on each side before it is cut out.
      min_sightings: the minimum number of frames of a track.
      tracks: join boxes into tracks; if not, each box is a track of its own.
    """

    detector: str
    every: float = 0.5
    start: float = 0.0
    end: float | None = None
    min_height: float = 48.0
    score: float = 0.0
    sure: float = 0.5
    pad: float = 0.05
    min_sightings: int = 2
    tracks: bool = True


class Track(NamedTuple):
    """A person of a video.

    Attributes:
      number: of the track, from 0.
      first: seconds from the start of the video at which the track begins.
      last: likewise, at which it ends.
      count: number of sightings.
      best: the best sighting.
      crops: names of the crops' files, best first.
    """

    number: int
    first: float
    last: float
    count: int
    best: Sighting
    crops: list[str]


class Scan(NamedTuple):
    """The result of a scan: the tracks, the number of frames, and lines about what went wrong."""

    tracks: list[Track]
    frames: int
    notes: list[str]


@dataclass
class _Open:
    """The sightings of a track as far as they are needed: the best, and the ends."""

    first: float
    last: float
    count: int = 0
    best: list[Sighting] = field(default_factory=list)


class _People:
    """The tracks of a video while it is scanned."""

    def __init__(self, settings: ScanSettings):
        self._settings = settings
        patience = max(4 * settings.every, 1.0)
        self._tracker = Tracker(TrackSettings(sure=settings.sure, patience=patience))
        self.tracks: dict[int, _Open] = {}

    def add(self, line: journal.Line) -> tuple[list[Sighting], list[Sighting]]:
        """Takes a frame; returns the sightings whose crops are needed now, and those no longer needed."""
        if self._settings.tracks:
            numbers = self._tracker.update(line.found, line.seconds, line.colors).tolist()
        else:
            numbers = range(len(self.tracks), len(self.tracks) + len(line.found.boxes))
        added, dropped = [], []
        for index, number in enumerate(numbers):
            if number < 0:
                continue
            one = _sighting(line, index, self._settings.pad)
            track = self.tracks.setdefault(number, _Open(one.seconds, one.seconds))
            best = best_sightings([*track.best, one], CROPS_PER_TRACK, self._settings.every)
            added += [one] if one in best else []
            dropped += [other for other in track.best if other not in best]
            track.best, track.last, track.count = best, one.seconds, track.count + 1
        return added, dropped

    def finished(self, frames: int) -> list[Track]:
        """Returns the tracks that were seen often enough, numbered in the order in which they begin."""
        least = min(self._settings.min_sightings, frames) if self._settings.tracks else 1
        kept = sorted(
            (track for track in self.tracks.values() if track.count >= least),
            key=lambda track: (track.first, track.best[0].index),
        )
        return [
            Track(i, t.first, t.last, t.count, t.best[0], [crop_name(one) for one in t.best])
            for i, t in enumerate(kept)
        ]


def crop_name(one: Sighting) -> str:
    """Returns the name of a crop's file."""
    return f"f{one.frame:06d}-{one.index:02d}.jpg"


def scan_folder(root: Path, video: str | os.PathLike, settings: ScanSettings) -> Path:
    """Returns the folder for the result of a video as it is now. Raises UserError if it cannot be read."""
    text = json.dumps(_header(video, settings))
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", Path(video).stem)[:40].strip("-.")
    return root / f"{stem or 'video'}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def scan(
    video: str | os.PathLike,
    folder: Path,
    detector: Callable[[int], Detector],
    settings: ScanSettings,
    *,
    wanted: Iterable[int] | None = None,
    workers: int = 1,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[float], object] = lambda seconds: None,
) -> Scan | None:
    """Scans a video, or resumes where an earlier call ended; returns the result of a finished one as it is.

    Args:
      video: the file.
      folder: where its result is written, see `scan_folder`.
      detector: returns the detector for a frame by its number.
      settings: the settings.
      wanted: numbers of the frames to choose from; None for all.
      workers: number of frames in which people are searched at the same time.
      stopped: asked after each frame whether to stop.
      progress: called with the time of each frame.

    Returns:
      The result, None if it was stopped.

    Raises:
      UserError: the video cannot be read, has no frames, or the disk is full.
    """
    if (done := read_scan(folder)) is not None:
        return done
    header = _header(video, settings)
    lines = journal.read(folder / "journal.jsonl", header)
    people, notes = _People(settings), []
    for line in lines:
        people.add(line)
    frames = len(lines)
    span = Span(settings.every, settings.start, settings.end, None if wanted is None else frozenset(wanted))
    if lines:
        last = lines[-1]
        span = dataclasses.replace(span, done=Done(last.frame, last.seconds, last.checksum, last.due))
    writer = journal.Writer(folder / "journal.jsonl", header, resume=bool(lines))
    with contextlib.closing(writer):
        found = _detect_ahead(read_frames(video, span, notes.append), detector, settings, workers)
        due = span.due
        with contextlib.closing(found):
            for frame, people_found in found:
                due = next_due(due, frame.seconds, settings.every)
                line = _make_line(frame, due, people_found, settings)
                added, dropped = people.add(line)
                for one in added:
                    _write_crop(folder / crop_name(one), frame.pixels, one)
                writer.add(line)
                for one in dropped:
                    (folder / crop_name(one)).unlink(missing_ok=True)
                frames += 1
                progress(frame.seconds)
                if stopped():
                    return None
    result = Scan(people.finished(frames), frames, notes)
    write_json(folder / "tracks.json", _to_json(result))
    remove_other_crops(folder, [name for track in result.tracks for name in track.crops])
    return result


def read_scan(folder: Path) -> Scan | None:
    """Returns the result of a finished scan, None if it is missing, damaged, or its crops are not there."""
    result = read_result(folder)
    there = result is not None and all((folder / track.crops[0]).is_file() for track in result.tracks)
    return result if there else None


def read_result(folder: Path) -> Scan | None:
    """Returns the result of a finished scan, whether or not its crops are there, None if it is damaged."""
    try:
        fields = json.loads((folder / "tracks.json").read_text(encoding="utf-8"))
        tracks = [
            Track(number, first, last, count, _to_sighting(*best), crops)
            for number, first, last, count, best, crops in fields["tracks"]
        ]
        return Scan(tracks, fields["frames"], fields["notes"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _to_sighting(
    frame: int, seconds: float, index: int, box: list[int], score: float, quality: float
) -> Sighting:
    x, y, w, h = box
    return Sighting(frame, seconds, index, (x, y, w, h), score, quality)


def remove_other_crops(folder: Path, keep: Iterable[str]) -> int:
    """Removes the crops of a video that are not among those to keep; returns how many could be removed."""
    kept, removed = set(keep), 0
    for path in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch(_CROP, path.name) and path.name not in kept:
            with contextlib.suppress(OSError):
                path.unlink()
                removed += 1
    return removed


def is_scan(folder: Path) -> bool:
    """Returns whether a folder is of a scan: has the name of one, and no visible files but those of one."""
    names = (path.name for path in folder.iterdir() if not path.name.startswith("."))
    return bool(re.fullmatch(_FOLDER, folder.name)) and all(re.fullmatch(_FILES, name) for name in names)


def remove_scan(folder: Path) -> None:
    """Removes a folder of a scan, as far as it can be removed; does nothing to another folder."""
    if not folder.is_symlink() and is_scan(folder):
        shutil.rmtree(folder, ignore_errors=True)


def remove_tracks(folder: Path, is_removed: Callable[[str], bool]) -> int:
    """Removes people from the result of a finished scan: their tracks, crops and boxes.

    The journal, which has the boxes of all people, is removed too: with `tracks.json` it is not needed. May
    be called again after a kill.

    Args:
      folder: the folder of the scan.
      is_removed: whether to remove the track whose best crop has this name.

    Returns:
      The number of crops that were removed, 0 if there is no finished scan.
    """
    if (result := read_scan(folder)) is None:
        return 0
    kept = [track for track in result.tracks if not is_removed(track.crops[0])]
    if len(kept) < len(result.tracks):
        write_json(folder / "tracks.json", _to_json(result._replace(tracks=kept)))
    (folder / "journal.jsonl").unlink(missing_ok=True)
    remove_leftovers_matching(folder, ".+")
    return remove_other_crops(folder, [name for track in kept for name in track.crops])


def _to_json(result: Scan) -> dict:
    return {"frames": result.frames, "notes": result.notes, "tracks": [list(t) for t in result.tracks]}


def _header(video: str | os.PathLike, settings: ScanSettings) -> dict:
    fields = dataclasses.asdict(settings)
    path = os.path.abspath(video)
    return {"version": VERSION, "video": path, "stamp": journal.stamp(video), "settings": fields}


def _detect_ahead(
    frames: Iterator[Frame], detector: Callable[[int], Detector], settings: ScanSettings, workers: int
) -> Generator[tuple[Frame, Detections], None, None]:
    """Yields frames in order with their people; at most 2 * `workers` frames are in memory."""

    def detect(frame: Frame) -> Detections:
        size = (frame.pixels.shape[1], frame.pixels.shape[0])
        found = detector(frame.number)(frame.pixels)
        return journal.rounded(limit(found, size, settings.min_height, settings.score))

    pending: deque[tuple[Frame, Future]] = deque()
    with ThreadPoolExecutor(workers) as pool, _one_thread_each(workers):
        try:
            for frame in frames:
                pending.append((frame, pool.submit(detect, frame)))
                if len(pending) >= 2 * workers:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _one_thread_each(workers: int) -> Generator[None, None, None]:
    """Lets OpenCV use one thread per frame while several frames are searched at the same time."""
    cv2 = opencv()
    before = cv2.getNumThreads()
    cv2.setNumThreads(before if workers == 1 else 1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _make_line(frame: Frame, due: float, found: Detections, settings: ScanSettings) -> journal.Line:
    height, width = frame.pixels.shape[:2]
    covered = others_inside(found.boxes)
    qualities, looks = [], []
    for box, share in zip(found.boxes, covered.tolist(), strict=True):
        x, y, w, h = pad_box(box, settings.pad, (width, height))
        at_edge = x <= 1 or y <= 1 or x + w >= width - 1 or y + h >= height - 1
        crop = frame.pixels[y : y + h, x : x + w]
        sharp = sharpness(crop)
        looks.append(colors(crop))
        qualities.append(crop_quality(int(box[3]), sharp, share, at_edge))
    return journal.Line(
        frame.number,
        round(frame.seconds, 4),
        due,
        (width, height),
        found,
        qualities=qualities,
        colors=looks,
        checksum=checksum(frame.pixels),
    )


def _sighting(line: journal.Line, index: int, pad: float) -> Sighting:
    box = pad_box(line.found.boxes[index], pad, line.size)
    score = round(float(line.found.scores[index]), 4)
    return Sighting(line.frame, line.seconds, index, box, score, line.qualities[index])


def _write_crop(path: Path, pixels: np.ndarray, one: Sighting) -> None:
    cv2 = opencv()
    x, y, w, h = one.box
    crop = cv2.cvtColor(pixels[y : y + h, x : x + w], cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not ok:
        raise UserError(f"{path}: the crop cannot be encoded as JPEG")
    write_whole(path, lambda temporary: Path(temporary).write_bytes(data.tobytes()))
