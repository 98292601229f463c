"""Pictures that come from a browser, and those that go to one.

What is shown is always encoded anew from its pixels: no EXIF, no place where it was taken, no thumbnail of
what was cut away, and of a photo with a box nothing but what is in the box.
"""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from tpr_jax.data.images import Crop, read_image
from tpr_jax.errors import UserError
from tpr_jax.search.store import KEY, Index

SIZES = {"small": 320, "large": 1600}  # pixels of the longer side, at most
# What browsers and cameras write. Pillow knows more, EPS among them, which it would hand to Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_UPLOAD_PIXELS = 50_000_000


class TooLarge(UserError):
    """A picture of more pixels than are decoded for somebody who is not known."""


def read_upload(data: bytes) -> np.ndarray:
    """The uint8 [h, w, 3] pixels of an uploaded picture.

    Raises:
      TooLarge: more than `MAX_UPLOAD_PIXELS`; nothing was decoded.
      UserError: it is empty, damaged, or no picture of the `FORMATS`.
    """
    if not data:
        raise UserError("the upload is empty: send the bytes of a picture")
    known = [name for name in FORMATS if name in _openable()]
    try:
        picture = Image.open(io.BytesIO(data), formats=known)
    except Image.DecompressionBombError:
        raise TooLarge(f"the picture is too large: at most {MAX_UPLOAD_PIXELS:,} pixels") from None
    except MemoryError:
        raise
    except Exception:  # a parser fed with damaged bytes may raise anything
        raise UserError(f"the upload is no picture that can be read: send {', '.join(known)}") from None
    with picture:
        if picture.width * picture.height > MAX_UPLOAD_PIXELS:
            size = f"{picture.width} x {picture.height}"
            raise TooLarge(f"the picture is too large ({size}): at most {MAX_UPLOAD_PIXELS:,} pixels")
        picture.filename = "the upload"  # for messages
        return read_image(picture)


def photo_jpeg(index: Index, row: int, size: str) -> bytes:
    """A JPEG without metadata of the photo of a row, within its box, no larger than `SIZES[size]`.

    Raises:
      IndexError: there is no such row.
      UserError: the photo is gone, or cannot be read any longer.
    """
    if not 0 <= row < index.table.num_rows:
        raise IndexError(row)
    path, *box = (index.table[name][row].as_py() for name in KEY)
    path = os.fspath(Path(index.info["photos"]) / path)
    pixels = read_image(path if box[0] is None else Crop(path, *box))
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIZES[size], SIZES[size]), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=88)
    return written.getvalue()


def _openable() -> set[str]:
    Image.init()
    return set(Image.OPEN)
