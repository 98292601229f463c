"""What was found in a video, frame by frame, in a file that survives a kill at any moment.

The first line names the video and the settings; each further line is a frame. A line is appended after the
crops of its frame are written, so that a line that is there is complete in all ways; half a line at the end,
of a killed process, is dropped. Replaying the lines gives the state of the tracker.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tpr_jax.errors import UserError, describe_disk_limit
from tpr_jax.footage.detections import Detections, make_detections


class Line(NamedTuple):
    """A frame that is done.

    Attributes:
      frame: its number.
      seconds: its time from the start of the video.
      due: when the next frame is due.
      size: (width, height).
      found: the people.
      qualities: how well the crop of each shows a person.
      colors: the colors of each, see `crops.colors`.
    """

    frame: int
    seconds: float
    due: float
    size: tuple[int, int]
    found: Detections
    qualities: list[float]
    colors: list[list[int]]


def rounded(found: Detections) -> Detections:
    """Rounds detections to what a journal holds, so that a replay gives the same tracks."""
    return found._replace(
        boxes=np.round(found.boxes.astype(np.float64), 1).astype(np.float32),
        scores=np.round(found.scores.astype(np.float64), 4).astype(np.float32),
    )


def read(path: Path, header: dict) -> list[Line]:
    """Returns the frames of a journal, and removes half a line at its end.

    Returns no frames if there is no journal, or one of another video or of other settings.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    whole = content[: content.rfind(b"\n") + 1]
    parsed = list(_parse(whole))
    if not parsed or parsed[0] != header:
        return []
    if len(whole) < len(content):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    return [_line(fields) for fields in parsed[1:]]


def _parse(whole: bytes) -> Iterator[Any]:
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)
            continue
        return  # whatever follows a damaged line is done again


def _line(fields: dict) -> Line:
    rows = fields["people"]
    found = make_detections([row[:4] for row in rows], [row[4] for row in rows], [row[6] for row in rows])
    return Line(
        fields["frame"],
        fields["seconds"],
        fields["due"],
        tuple(fields["size"]),
        found,
        qualities=[row[5] for row in rows],
        colors=[row[7] for row in rows],
    )


class Writer:
    """Appends frames to a journal."""

    def __init__(self, path: Path, header: dict, resume: bool):
        """Opens a journal, and begins a new one unless it is to be resumed."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab" if resume else "wb")  # noqa: SIM115 closed by `close`
        except OSError as error:
            raise self._error(error) from error
        if not resume:
            self._append(header)

    def add(self, line: Line) -> None:
        """Appends a frame. Raises UserError if the disk is full."""
        found = line.found
        people = [
            [*(round(float(v), 1) for v in box), round(float(score), 4), quality, int(track), colors]
            for box, score, quality, track, colors in zip(
                found.boxes, found.scores, line.qualities, found.tracks, line.colors, strict=True
            )
        ]
        fields = {"frame": line.frame, "seconds": line.seconds, "due": line.due, "size": line.size}
        self._append(fields | {"people": people})

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _append(self, fields: dict) -> None:
        try:
            self._file.write(json.dumps(fields).encode() + b"\n")
            self._file.flush()  # to the system, which keeps it if this process is killed
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> UserError:
        reason = f"{self._path}: cannot be written ({error.strerror}); check the folder"
        return UserError(describe_disk_limit(error, self._path) or reason)


def stamp(path: str | os.PathLike) -> list[int]:
    """Returns size and modification time (ns) of a file. Raises UserError."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return [status.st_size, status.st_mtime_ns]
