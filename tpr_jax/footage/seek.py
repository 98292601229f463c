"""Decodes frames of a video at given times, without reading the video from its start."""

import os
import time
from collections.abc import Iterator, Sequence

from tpr_jax.errors import UserError
from tpr_jax.footage.opencv import opencv
from tpr_jax.footage.video import JUMPS, Frame, frame_seconds, open_video, to_rgb

_CLOSE = 1e-3  # seconds by which two times of one frame may differ, since those of an index are rounded


def frames_at(path: str | os.PathLike, times: Sequence[float], max_seconds: float = 30.0) -> Iterator[Frame]:
    """Yields, for each of some times, the first frame at or after it; ends where the video does.

    The times are those of `video.read_frames`, which the file gives to each frame, so that a varying frame
    rate does not shift them. A file that gives no times is read from its start.

    Args:
      path: the video.
      times: seconds from the start of the file, in order.
      max_seconds: seconds that decoding may take.

    Yields:
      The frames; `number` counts from the frame at which reading began.

    Raises:
      UserError: the file is no video that can be read, or decoding takes longer.
    """
    if not times:
        return
    cv2, end = opencv(), time.monotonic() + max_seconds
    jumps = [start for back in JUMPS if (start := times[0] - back) > 0]
    for start in (*jumps, 0.0):
        capture = open_video(cv2, path, start)
        try:
            frames = _frames_from(cv2, path, capture, times, end, jumped=start > 0)
            if (first := next(frames, None)) is not None:
                yield first
                yield from frames
                return
        finally:
            capture.release()


def _frames_from(
    cv2, path: str | os.PathLike, capture, times: Sequence[float], end: float, jumped: bool
) -> Iterator[Frame]:
    """Yields the frames; none if a jump went too far, or the file gives no times."""
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
    number, seconds, due = -1, 0.0, 0
    while capture.grab():
        number += 1
        if time.monotonic() > end:
            raise UserError(f"{path}: decoding takes too long; convert the video to one with more key frames")
        milliseconds = capture.get(cv2.CAP_PROP_POS_MSEC)
        if jumped and number == 0 and (milliseconds <= 0 or milliseconds > 1000 * (times[0] + _CLOSE)):
            return
        seconds = frame_seconds(milliseconds, number, rate, seconds)
        if seconds < times[due] - _CLOSE:
            continue
        ok, pixels = capture.retrieve()
        if not ok:
            continue
        frame = Frame(number, seconds, to_rgb(cv2, pixels))
        while due < len(times) and seconds >= times[due] - _CLOSE:
            yield frame
            due += 1
        if due == len(times):
            return
