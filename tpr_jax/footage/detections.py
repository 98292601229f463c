"""Boxes of people in one frame: overlap, suppression of repeated boxes, limits."""

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from tpr_jax.data.boxes import Box


class Detections(NamedTuple):
    """The people in one frame.

    Attributes:
      boxes: x, y, width, height in pixels of the upright frame.
      scores: the detector's confidence; its scale is the detector's own.
      tracks: numbers of tracks that are known already; -1 where they are not.
    """

    boxes: Float32[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, " n"]
    tracks: Int64[np.ndarray, " n"]

    def take(self, rows: np.ndarray) -> "Detections":
        """Returns some of the rows, by index or mask."""
        return Detections(self.boxes[rows], self.scores[rows], self.tracks[rows])


class Detector(Protocol):
    """Finds people in the pixels of a frame."""

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """Returns the people in an RGB frame."""
        ...


def make_detections(boxes: object, scores: object = None, tracks: object = None) -> Detections:
    """Returns detections from lists or arrays; scores are 1 and tracks -1 where they are not given."""
    rows = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Detections(
        rows,
        np.ones(len(rows), np.float32) if scores is None else np.asarray(scores, np.float32).reshape(-1),
        np.full(len(rows), -1, np.int64) if tracks is None else np.asarray(tracks, np.int64).reshape(-1),
    )


def iou(a: Float32[np.ndarray, "n 4"], b: Float32[np.ndarray, "m 4"]) -> Float32[np.ndarray, "n m"]:
    """Computes intersection over union of each pair of boxes (x, y, width, height)."""
    both = intersection(a, b)
    union = (a[:, 2] * a[:, 3])[:, None] + (b[:, 2] * b[:, 3])[None] - both
    return np.where(union > 0, both / np.maximum(union, 1e-9), 0).astype(np.float32)


def intersection(a: Float32[np.ndarray, "n 4"], b: Float32[np.ndarray, "m 4"]) -> Float32[np.ndarray, "n m"]:
    """Computes the area that each pair of boxes shares."""
    start = np.maximum(a[:, None, :2], b[None, :, :2])
    end = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    return np.prod(np.clip(end - start, 0, None), axis=-1).astype(np.float32)


def suppress(found: Detections, max_overlap: float, of_smaller: float = 1.0) -> Detections:
    """Keeps the best of boxes that overlap (greedy non-maximum suppression), best first.

    Args:
      found: the boxes.
      max_overlap: intersection over union above which the box with the lower score is dropped.
      of_smaller: share of the smaller box inside a better one above which the box is dropped.
    """
    order = np.argsort(-found.scores, kind="stable")
    boxes = found.boxes[order]
    area = boxes[:, 2] * boxes[:, 3]
    smaller = np.maximum(np.minimum(area[:, None], area[None]), 1e-9)
    repeated = (iou(boxes, boxes) > max_overlap) | (intersection(boxes, boxes) / smaller > of_smaller)
    kept: list[int] = []
    for row in range(len(boxes)):
        if not repeated[row, kept].any():
            kept.append(row)
    return found.take(order[np.array(kept, np.int64)])


def limit(found: Detections, size: tuple[int, int], min_height: float, min_score: float) -> Detections:
    """Cuts boxes to the frame, and drops low and uncertain ones, and ones that are almost outside.

    Args:
      found: the boxes.
      size: (width, height) of the frame.
      min_height: the minimum height in pixels, within the frame.
      min_score: the minimum score.
    """
    start = np.clip(found.boxes[:, :2], 0, size)
    end = np.clip(found.boxes[:, :2] + found.boxes[:, 2:], 0, size)
    inside = np.concatenate([start, end - start], axis=1).astype(np.float32)
    kept: Bool[np.ndarray, " n"] = (
        (found.scores >= min_score) & (inside[:, 3] >= max(min_height, 1)) & (inside[:, 2] >= 1)
    )
    return Detections(inside, found.scores, found.tracks).take(kept)


def pad_box(box: Float32[np.ndarray, " 4"], share: float, size: tuple[int, int]) -> Box:
    """Returns a box of whole pixels, larger by `share` of its sides on each side, within (width, height)."""
    x, y, w, h = (float(value) for value in box)
    left, top = max(round(x - share * w), 0), max(round(y - share * h), 0)
    right, bottom = min(round(x + w + share * w), size[0]), min(round(y + h + share * h), size[1])
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    return left, top, max(right - left, 1), max(bottom - top, 1)
