"""The scene of a row of the index: the whole frame of a video, or the whole photo, that shows the person.

No request names a file. A row of a video leads to the folder of its crop, and only through `footage.json`,
which lists the videos of the index, to the video; it is opened only if it is as it was when it was indexed.
"""

import contextlib
import functools
import io
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tpr_jax.data.images.files import open_regular
from tpr_jax.data.images.read import read_fitting
from tpr_jax.data.images.size import upright_size
from tpr_jax.errors import UserError
from tpr_jax.footage.scan import read_result
from tpr_jax.footage.seek import frames_at
from tpr_jax.search.index.footage_manifest import read_manifest
from tpr_jax.search.index.names import CROPS
from tpr_jax.search.index.store import FILE_COLUMNS, KEY_COLUMNS, Index, is_crop

SIDE, MOMENT_SIDE = 1600, 960  # maximum length of the longer side in pixels: of a frame, and of moments
BEFORE, AFTER = 3.0, 4.0  # seconds around the moment of a row that are played
MIN_STEP, MAX_STEP = 0.25, 0.5  # seconds between two moments
# Containers that browsers play, if they know the codec in it; the page shows moments where they do not.
PLAYABLE = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime"}
# Frames are kept as JPEG: 100 to 300 kB each, and a third of that for a moment; about 20 MB in all.
KEPT_FRAMES, KEPT_WINDOWS = 32, 8

Stamp = tuple[int, int]  # size, and time of the last change in ns


class NoSceneError(Exception):
    """The row has no scene: its photo is all there is. The message is for the client."""


class GoneError(Exception):
    """The video or photo is gone, has changed, or cannot be read. The message is for the client."""


class Source(NamedTuple):
    """A file that an index lists.

    Attributes:
      path: the file.
      name: how the index calls it.
      stamp: size and time when it was indexed.
    """

    path: str
    name: str
    stamp: Stamp


class Video(NamedTuple):
    """A video of an index, and the seconds between the frames that were searched."""

    source: Source
    every: float


class Scene(NamedTuple):
    """Where a person was seen.

    Attributes:
      source: the video or photo.
      box: x, y, width, height in pixels of the upright frame or photo.
      seconds: the moment, from the start of the video; None for a photo.
      step: seconds between two moments that are shown around it.
    """

    source: Source
    box: tuple[int, int, int, int]
    seconds: float | None
    step: float

    @property
    def media_type(self) -> str | None:
        """The type of a video that browsers may play, None for others and for photos."""
        return None if self.seconds is None else PLAYABLE.get(Path(self.source.path).suffix.lower())


class Shown(NamedTuple):
    """A frame as JPEG, with the width and height that it has in the file, and its time."""

    jpeg: bytes
    size: tuple[int, int]
    seconds: float | None


@functools.lru_cache(4)
def listed_videos(folder: Path, version: str) -> Mapping[str, Video]:
    """Returns the videos that a version of an index lists, by the name of the folder of their crops."""
    try:
        sources = read_manifest(folder)["sources"].values()
    except UserError:
        return {}
    videos = {}
    for entry in sources:
        for one in entry["videos"]:
            size, time = one.get("stamp") or (-1, -1)
            source = Source(os.fspath(Path(entry["root"], one["path"])), one["path"], (size, time))
            videos[one["folder"]] = Video(source, float(entry["options"]["every"]))
    return videos


def find_scene(index: Index, version: str, row: int) -> Scene:
    """Finds the scene of a row.

    Raises:
      IndexError: the index does not have this row.
      NoSceneError: the row is a photo without a box.
      GoneError: the video is no longer listed, or its record is gone.
    """
    if not 0 <= row < index.table.num_rows:
        raise IndexError(row)
    record = index.table.slice(row, 1).select([*KEY_COLUMNS, *FILE_COLUMNS[:2]]).to_pylist()[0]
    path, *box = (record[name] for name in KEY_COLUMNS)
    if box[0] is None:
        raise NoSceneError("this photo has no box: it is shown as a whole already")
    file = Path(index.info["photos"]) / path
    if not is_crop(index.folder, file):
        stamp = (record[FILE_COLUMNS[0]], record[FILE_COLUMNS[1]])
        return Scene(Source(os.fspath(file), f"the photo {Path(path).name}", stamp), tuple(box), None, 0.0)
    video = listed_videos(index.folder, version).get(file.parent.name)
    result = read_result(index.folder / CROPS / file.parent.name) if video else None
    tracks = [track for track in result.tracks if track.crops[0] == file.name] if result else []
    if video is None or not tracks:
        raise GoneError("the index no longer lists the video of this row: search again")
    step = min(max(video.every, MIN_STEP), MAX_STEP)
    source = video.source._replace(name=f"the video {video.source.name}")
    return Scene(source, tuple(box), tracks[0].best.seconds, step)


def check_source(source: Source) -> None:
    """Raises GoneError if a file is gone or has changed since it was indexed."""
    with _unchanged(source):
        pass


def read_part(source: Source, start: int, count: int) -> bytes:
    """Reads bytes of a file that is as it was when it was indexed. Raises GoneError."""
    with _unchanged(source) as file:
        file.seek(start)
        return file.read(count)


@contextlib.contextmanager
def _unchanged(source: Source) -> Generator[BinaryIO]:
    """Opens a file that is as it was when it was indexed. Raises GoneError."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_regular(source.path))
            status = os.fstat(file.fileno())
        except (OSError, UserError):
            raise GoneError(f"{source.name} is no longer where it was indexed: index it again") from None
        if (status.st_size, status.st_mtime_ns) != source.stamp:
            raise GoneError(f"{source.name} has changed since it was indexed: index it again")
        yield file


def show_frame(scene: Scene) -> Shown:
    """Returns the frame or photo of a scene. Raises GoneError."""
    check_source(scene.source)
    try:
        if scene.seconds is None:
            return _photo(scene.source)
        return _frame(scene.source, scene.seconds)
    except (UserError, IndexError):
        raise GoneError(f"{scene.source.name} cannot be read") from None


def show_moments(scene: Scene) -> tuple[Shown, ...]:
    """Returns frames around the moment of a scene of a video, in order. Raises GoneError."""
    check_source(scene.source)
    try:
        return _moments(scene.source, moment_times(scene))
    except UserError:
        raise GoneError(f"{scene.source.name} cannot be read") from None


def moment_times(scene: Scene) -> tuple[float, ...]:
    """Returns the times of the moments around a scene of a video: steps from it in both directions."""
    assert scene.seconds is not None, "photos have no moments"
    steps = range(-int(BEFORE / scene.step), int(AFTER / scene.step) + 1)
    times = (scene.seconds + step * scene.step for step in steps)
    return tuple(round(one, 4) for one in times if one >= 0)


@functools.lru_cache(KEPT_FRAMES)
def _photo(source: Source) -> Shown:
    pixels = read_fitting(source.path, SIDE)
    size = upright_size(source.path) or (pixels.shape[1], pixels.shape[0])
    return Shown(_jpeg(pixels, SIDE), size, None)


@functools.lru_cache(KEPT_FRAMES)
def _frame(source: Source, seconds: float) -> Shown:
    return _decode(source, (seconds,), SIDE)[0]


@functools.lru_cache(KEPT_WINDOWS)
def _moments(source: Source, times: tuple[float, ...]) -> tuple[Shown, ...]:
    return _decode(source, times, MOMENT_SIDE)


def _decode(source: Source, times: tuple[float, ...], side: int) -> tuple[Shown, ...]:
    """Returns the frames at some times, each once, though several times may fall between two frames."""
    shown: dict[float, Shown] = {}
    for frame in frames_at(source.path, times):  # one at a time in memory
        if frame.seconds not in shown:
            size = (frame.pixels.shape[1], frame.pixels.shape[0])
            shown[frame.seconds] = Shown(_jpeg(frame.pixels, side), size, frame.seconds)
    return tuple(shown.values())


def _jpeg(pixels: UInt8[np.ndarray, "h w 3"], side: int) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
