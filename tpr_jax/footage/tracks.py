"""Joins boxes of neighboring frames into tracks, by the association of ByteTrack.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022. Sure boxes are
matched with tracks first, by overlap with the box that each track predicts; then unsure boxes with the tracks
that are left, which keeps a person who is half hidden. Only sure boxes begin tracks.

Frames are about half a second apart here, in which a person moves by more than their width. So, unlike in
ByteTrack, nearness counts beside overlap; so do the colors of the clothes, which keep people apart who pass
each other; and the predicted speed is a smoothed mean in place of a Kalman filter's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Float64, Int64

from tpr_jax.footage.detections import Detections, iou

_SMOOTHING = 0.5  # weight of the newest speed
_COLOR_SMOOTHING, _COLOR_WEIGHT = 0.2, 0.6
_NOT_ALLOWED = 1e6


@dataclass(frozen=True)
class TrackSettings:
    """When boxes belong together.

    Attributes:
      sure: the score from which a box is matched first and may begin a track.
      max_cost: the highest cost of a match, see `match_cost`.
      max_cost_unsure: likewise for unsure boxes.
      patience: seconds for which a track without a box is kept.
    """

    sure: float = 0.5
    max_cost: float = 0.85
    max_cost_unsure: float = 0.6
    patience: float = 2.0


@dataclass
class _Track:
    number: int
    box: Float32[np.ndarray, " 4"]
    seconds: float
    colors: Float64[np.ndarray, " c"]
    speed: Float32[np.ndarray, " 2"] = field(default_factory=lambda: np.zeros(2, np.float32))

    def predict(self, seconds: float) -> Float32[np.ndarray, " 4"]:
        """Returns the box that is expected at a time."""
        moved = self.box.copy()
        moved[:2] += self.speed * np.float32(seconds - self.seconds)
        return moved

    def update(
        self, box: Float32[np.ndarray, " 4"], seconds: float, colors: Float64[np.ndarray, " c"]
    ) -> None:
        """Takes the box of a later frame, and the colors in it."""
        self.colors = (1 - _COLOR_SMOOTHING) * self.colors + _COLOR_SMOOTHING * colors
        elapsed = max(seconds - self.seconds, 1e-3)
        center, previous = box[:2] + box[2:] / 2, self.box[:2] + self.box[2:] / 2
        speed = ((center - previous) / elapsed).astype(np.float32)
        self.speed = (1 - _SMOOTHING) * self.speed + _SMOOTHING * speed
        self.box, self.seconds = box, seconds


def match_cost(
    predicted: Float32[np.ndarray, "t 4"], boxes: Float32[np.ndarray, "n 4"]
) -> Float64[np.ndarray, "t n"]:
    """Computes the cost of matching tracks with boxes, from 0 (equal) upwards.

    It is the mean of 1 - IoU and of the distance of the centers in mean heights (at most 1), plus the share
    by which the heights differ beyond a quarter. Half a second of walking is about 0.4 heights.
    """
    overlap = iou(predicted, boxes).astype(np.float64)
    centers = (predicted[:, :2] + predicted[:, 2:] / 2)[:, None] - (boxes[:, :2] + boxes[:, 2:] / 2)[None]
    heights = np.stack(np.broadcast_arrays(predicted[:, None, 3], boxes[None, :, 3])).astype(np.float64)
    distance = np.linalg.norm(centers, axis=-1) / np.maximum(heights.mean(0), 1e-6)
    difference = 1 - heights.min(0) / np.maximum(heights.max(0), 1e-6)
    return (1 - overlap + np.minimum(distance, 1)) / 2 + np.clip(difference - 0.25, 0, None)


def color_cost(a: Float64[np.ndarray, "t c"], b: Float64[np.ndarray, "n c"]) -> Float64[np.ndarray, "t n"]:
    """Computes how much histograms differ, from 0 to 1: 1 - the Bhattacharyya coefficient."""
    a, b = (rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-9) for rows in (a, b))
    return 1 - np.minimum(np.sqrt(a) @ np.sqrt(b).T, 1)


def assign(cost: Float64[np.ndarray, "t n"], max_cost: float) -> list[tuple[int, int]]:
    """Returns the pairs (row, column) of lowest total cost, each of at most `max_cost`."""
    if not cost.size:
        return []
    from scipy.optimize import linear_sum_assignment  # takes 0.3 s, and indexes of photos have no tracks

    rows, columns = linear_sum_assignment(np.where(cost <= max_cost, cost, _NOT_ALLOWED))
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [pair for pair in pairs if cost[pair] <= max_cost]


class Tracker:
    """Gives each box of a video, frame by frame, the number of its track."""

    def __init__(self, settings: TrackSettings):
        """Begins without tracks."""
        self.settings = settings
        self._tracks: list[_Track] = []
        self._next = 0
        self._colors = np.ones((0, 1))  # of the boxes of the current frame
        self._known: dict[int, int] = {}  # numbers that boxes had already -> numbers of this tracker

    def update(
        self, found: Detections, seconds: float, colors: Sequence[Sequence[int]] | None = None
    ) -> Int64[np.ndarray, " n"]:
        """Returns the tracks of the boxes of the next frame; -1 for an unsure box without a track.

        Args:
          found: the boxes.
          seconds: the time of the frame.
          colors: a histogram of the colors of each box; None leaves colors out of account.
        """
        self._colors = np.ones((len(found.boxes), 1)) if colors is None else np.array(colors, np.float64)
        numbers = np.full(len(found.boxes), -1, np.int64)
        for row in np.flatnonzero(found.tracks >= 0):
            numbers[row] = self._known_number(int(found.tracks[row]))
        self._tracks = [t for t in self._tracks if seconds - t.seconds <= self.settings.patience]
        sure = found.scores >= self.settings.sure
        free = found.tracks < 0
        taken = self._match(found, np.flatnonzero(sure & free), seconds, numbers, self.settings.max_cost)
        left = [track for track in self._tracks if track.number not in taken]
        unsure = np.flatnonzero(~sure & free)
        self._match(found, unsure, seconds, numbers, self.settings.max_cost_unsure, left)
        for row in np.flatnonzero(sure & free & (numbers < 0)):
            self._tracks.append(_Track(self._number(), found.boxes[row], seconds, self._colors[row]))
            numbers[row] = self._tracks[-1].number
        return numbers

    def _match(
        self,
        found: Detections,
        rows: np.ndarray,
        seconds: float,
        numbers: np.ndarray,
        max_cost: float,
        tracks: list[_Track] | None = None,
    ) -> set[int]:
        tracks = self._tracks if tracks is None else tracks
        if not tracks or not len(rows):
            return set()
        predicted = np.stack([track.predict(seconds) for track in tracks])
        cost = match_cost(predicted, found.boxes[rows])
        looks = np.stack([track.colors for track in tracks])
        cost = cost + _COLOR_WEIGHT * color_cost(looks, self._colors[rows])
        pairs = assign(cost, max_cost)
        for i, j in pairs:
            tracks[i].update(found.boxes[rows[j]], seconds, self._colors[rows[j]])
            numbers[rows[j]] = tracks[i].number
        return {tracks[i].number for i, _ in pairs}

    def _number(self) -> int:
        self._next += 1
        return self._next - 1

    def _known_number(self, number: int) -> int:
        if number not in self._known:
            self._known[number] = self._number()
        return self._known[number]
