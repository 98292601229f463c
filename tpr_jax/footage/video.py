"""Reads the frames of a video at a spacing, with the time that the file gives to each frame."""

import os
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from tpr_jax.errors import UserError
from tpr_jax.footage.opencv import opencv

SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv")
)
# Seconds before the wanted time to which to jump. A jump may end too late, as where the frame rate varies:
# then the next one goes further back, and the last to the start of the file.
JUMPS = (0.5, 5.0, 30.0)
_CLOSE = 1e-4  # seconds by which two times of one frame may differ, since those of a journal are rounded
_MISSING = 0.02  # share of the announced frames that may be missing: their number is often an estimate


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
      number: its number within the file, from 0.
      seconds: its time from the start of the file, as the file gives it.
      pixels: RGB, upright.
    """

    number: int
    seconds: float
    pixels: UInt8[np.ndarray, "h w 3"]


class Done(NamedTuple):
    """The last frame that an earlier run has finished.

    Attributes:
      frame: its number.
      seconds: its time from the start of the file.
      checksum: the `checksum` of its pixels, None if it is not known.
      due: seconds at which the next frame is due.
    """

    frame: int
    seconds: float
    checksum: int | None
    due: float


@dataclass(frozen=True)
class Span:
    """Which frames of a video to read.

    Attributes:
      every: seconds between two frames; 0 reads every frame.
      start: seconds from the start of the file.
      end: likewise; None reads to its end.
      wanted: numbers of the frames to choose from; None for all.
      done: where to resume; None reads from the first frame.
    """

    every: float = 0.5
    start: float = 0.0
    end: float | None = None
    wanted: Collection[int] | None = None
    done: Done | None = None

    @property
    def due(self) -> float:
        """Seconds at which the first frame to read is due."""
        return self.start if self.done is None else self.done.due


def read_frames(path: str | os.PathLike, span: Span, note: Callable[[str], object]) -> Iterator[Frame]:
    """Yields frames in order.

    Frames between two that are wanted are decoded, as the codecs require, but not converted. Frames that an
    earlier run has finished are not decoded again, except from the last key frame on. The times are those of
    the file, so that a varying frame rate does not shift them. OpenCV turns frames upright as the file says,
    and reduces 10 bits to 8.

    Args:
      path: the video.
      span: the frames to read.
      note: called with a line if the file ends before the frames that it announces.

    Raises:
      UserError: the file is no video that can be read, or has no frames.
    """
    cv2 = opencv()
    done, due = -1 if span.done is None else span.done.frame, span.due
    capture, number, seconds = _open_after(cv2, path, span.done)
    try:
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        while capture.grab():
            number += 1
            seconds = frame_seconds(capture.get(cv2.CAP_PROP_POS_MSEC), number, rate, seconds)
            if span.end is not None and seconds > span.end:
                return
            if number <= done or seconds < due - 1e-6:
                continue
            if span.wanted is not None and number not in span.wanted:
                continue
            ok, pixels = capture.retrieve()
            if not ok:
                continue
            due = next_due(due, seconds, span.every)
            yield Frame(number, seconds, to_rgb(cv2, pixels))
        _check_end(path, number + 1, announced, rate, note)
        _check_wanted(path, number + 1, span.wanted or (), note)
    finally:
        capture.release()


def checksum(pixels: UInt8[np.ndarray, "h w 3"]) -> int:
    """Returns a number by which to recognize a frame that is decoded again."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def _open_after(cv2, path: str | os.PathLike, done: Done | None):
    """Opens a video where its next frame is the one after `done`, or else at its start.

    Returns:
      The video, and the number and seconds of the frame before the next one: -1 and 0 at the start.
    """
    for back in JUMPS:
        if done is None or done.checksum is None or done.seconds <= back:
            break
        capture = open_video(cv2, path, done.seconds - back)
        if _reaches(cv2, capture, done):
            return capture, done.frame, done.seconds
        capture.release()
    return open_video(cv2, path), -1, 0.0


def _reaches(cv2, capture, done: Done) -> bool:
    """Reads until `done`; returns whether it is found, with its time and its pixels.

    Its pixels differ where the jump did not end at a key frame: the decoder then lacks what they refer to.
    """
    while capture.grab():
        seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if seconds <= 0 or seconds > done.seconds + _CLOSE:
            return False
        if seconds >= done.seconds - _CLOSE:
            ok, pixels = capture.retrieve()
            return ok and checksum(to_rgb(cv2, pixels)) == done.checksum
    return False


def next_due(due: float, seconds: float, every: float) -> float:
    """Returns when the next frame is due after one at `seconds` that was due at `due`.

    The grid stays where it began, unless the video has a gap: then it begins again after the gap.
    """
    following = due + every
    return following if following > seconds else seconds + every


def open_video(cv2, path: str | os.PathLike, start: float = 0.0):
    """Opens a video with OpenCV, to be read upright, at about `start` seconds.

    Raises:
      UserError: it cannot be read.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such video")
    if not os.path.getsize(path):
        raise UserError(f"{path}: is empty")
    capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise UserError(
            f"{path}: is not a video that can be read: it is damaged, or was cut off while recorded"
        )
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    if start:
        capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * start)
    return capture


def frame_seconds(milliseconds: float, number: int, rate: float, previous: float) -> float:
    """Returns the time of a frame; some streams without times of their own give 0 for all frames."""
    if milliseconds <= 0 and number > 0:
        return max(number / rate, previous)
    return max(milliseconds / 1000, 0.0)


def to_rgb(cv2, pixels: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Converts a frame of OpenCV to RGB."""
    if pixels.dtype != np.uint8:  # never by FFmpeg, but other readers keep 16 bits
        pixels = (pixels // 257).astype(np.uint8)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB)


def _check_end(
    path: object, count: int, announced: float, rate: float, note: Callable[[str], object]
) -> None:
    if not count:
        raise UserError(f"{path}: has no frames that can be read")
    if count < announced - max(2, _MISSING * announced):
        note(
            f"{path}: ends after {count:,} of {announced:,.0f} frames ({count / rate:.0f} of "
            f"{announced / rate:.0f} s): it is cut off or damaged there; the frames before are used"
        )


def _check_wanted(path: object, count: int, wanted: Collection[int], note: Callable[[str], object]) -> None:
    if beyond := sorted(frame for frame in wanted if not 0 <= frame < count):
        note(
            f"{path}: has {count:,} frames, but {len(beyond):,} others have boxes, such as frame {beyond[0]}"
        )
