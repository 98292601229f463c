"""Chooses the crops that show a person best, by size, sharpness and how little of others is in the box."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from tpr_jax.footage.detections import intersection
from tpr_jax.footage.opencv import opencv

_SIZE = 160  # pixels of height from which more height counts no further
_SHARPNESS = 300.0  # variance of the Laplacian at which sharpness counts half


class Sighting(NamedTuple):
    """A person in a frame.

    Attributes:
      frame: number of the frame.
      seconds: its time from the start of the video.
      index: number of the box within the frame.
      box: x, y, width, height in whole pixels, padded.
      score: the detector's score.
      quality: how well the crop shows the person, see `crop_quality`.
    """

    frame: int
    seconds: float
    index: int
    box: tuple[int, int, int, int]
    score: float
    quality: float


def others_inside(boxes: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, " n"]:
    """Computes the largest share of each box that one of the other boxes covers."""
    if len(boxes) < 2:
        return np.zeros(len(boxes), np.float32)
    shared = intersection(boxes, boxes) / np.maximum(boxes[:, 2] * boxes[:, 3], 1e-6)[:, None]
    np.fill_diagonal(shared, 0)
    return shared.max(axis=1).astype(np.float32)


def sharpness(crop: UInt8[np.ndarray, "h w 3"]) -> float:
    """Computes the variance of the Laplacian of the gray crop, at a height of 128 pixels."""
    cv2 = opencv()
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    gray = cv2.resize(gray, (48, 128), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(gray, cv2.CV_32F).var())


def colors(crop: UInt8[np.ndarray, "h w 3"]) -> list[int]:
    """Computes a coarse histogram of the colors of a person, in percent, above and below the waist.

    Each half has six bins of hue, for pixels that have a color, and three of brightness for the others. The
    outer quarter of the width, which shows the background, does not count.
    """
    cv2 = opencv()
    small = cv2.resize(crop, (24, 48), interpolation=cv2.INTER_AREA)[:, 6:18]
    hue, saturation, value = cv2.split(cv2.cvtColor(small, cv2.COLOR_RGB2HSV))
    is_color = (saturation > 70) & (value > 50)
    # Hues of OpenCV are from 0 to 179; red is around 0.
    bins = np.where(is_color, (hue.astype(np.int64) + 15) // 30 % 6, 6 + np.minimum(value // 60, 2))
    halves = [bins[6:26], bins[26:46]]
    return [
        round(100 * share) for half in halves for share in np.bincount(half.ravel(), minlength=9) / half.size
    ]


def crop_quality(height: int, sharp: float, covered: float, at_edge: bool) -> float:
    """Returns how well a crop shows a person, from 0 to 1, rounded so that it is equal after a restart.

    Args:
      height: of the box, in pixels.
      sharp: the `sharpness` of the crop.
      covered: the share of the box that another box covers.
      at_edge: whether the box touches the edge of the frame, which often cuts the person.
    """
    size = min(height / _SIZE, 1.0)
    value = size * (sharp / (sharp + _SHARPNESS)) * (1 - min(covered, 1.0)) ** 2 * (0.5 if at_edge else 1.0)
    return round(value, 6)


def best_sightings(sightings: list[Sighting], count: int, apart: float) -> list[Sighting]:
    """Returns the best sightings of a track, best first.

    Args:
      sightings: those of one track.
      count: the most to return.
      apart: seconds between two of them, so that they differ; waived if too few are left.
    """
    ordered = sorted(sightings, key=lambda one: (-one.quality, one.frame, one.index))
    chosen: list[Sighting] = []
    for one in ordered:
        if len(chosen) < count and all(abs(one.seconds - other.seconds) >= apart for other in chosen):
            chosen.append(one)
    return chosen
