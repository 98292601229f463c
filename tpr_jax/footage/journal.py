"""What was found in a video, frame by frame, in a file that survives a kill at any moment.

The first line names the video and the settings; each further line is a frame. A line is appended after the
crops of its frame are written, so that a line that is there is complete in all ways. Replaying the lines
gives the state of the tracker.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.footage.detections import Detections, make_detections
from tpr_jax.utils import line_log


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
      checksum: `video.checksum` of its pixels; None in journals of older versions.
    """

    frame: int
    seconds: float
    due: float
    size: tuple[int, int]
    found: Detections
    qualities: list[float]
    colors: list[list[int]]
    checksum: int | None


def rounded(found: Detections) -> Detections:
    """Rounds detections to what a journal holds, so that a replay gives the same tracks."""
    return found._replace(
        boxes=np.round(found.boxes.astype(np.float64), 1).astype(np.float32),
        scores=np.round(found.scores.astype(np.float64), 4).astype(np.float32),
    )


def read(path: Path, header: dict) -> list[Line]:
    """Returns the frames of a journal, see `line_log.read`."""
    return [_line(fields) for fields in line_log.read(path, header)]


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
        checksum=fields.get("checksum"),
    )


class Writer(line_log.LineLog):
    """Appends frames to a journal."""

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
        fields["checksum"] = line.checksum
        self.append(fields | {"people": people})


def stamp(path: str | os.PathLike) -> list[int]:
    """Returns size and modification time (ns) of a file. Raises UserError."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return [status.st_size, status.st_mtime_ns]
