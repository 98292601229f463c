"""Blurs the heads of people in what the server shows: `serve --blur_faces`.

The upper part of each crop is blurred by proportion. Crops of cameras are too small for the face detectors
that OpenCV ships: heads have about 10 pixels there, and its Haar cascades need 20. A proportion misses nobody
who stands upright in a crop, seen from any side.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

HEAD = 0.25  # share of a crop's height: a head takes an eighth of a body, and loose boxes have a margin
_COLUMNS = 6  # blocks across a crop, so that a face has two or three


def blur_head(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a crop of a person whose upper quarter shows only a few blurred blocks of color."""
    height, width = pixels.shape[:2]
    end = max(1, round(HEAD * height))
    columns = min(_COLUMNS, width)
    rows = max(1, min(end, round(columns * end / width)))
    small = Image.fromarray(pixels[:end]).resize((columns, rows), Image.Resampling.BOX)
    blurred = pixels.copy()
    blurred[:end] = np.asarray(small.resize((width, end), Image.Resampling.BILINEAR))
    return blurred
