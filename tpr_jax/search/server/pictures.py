"""Pictures that come from a browser, and those that go to one.

What is shown is always encoded anew from its pixels: no EXIF, no place where it was taken, no thumbnail of
what was cut away, and of a photo with a box nothing but what is in the box.
"""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from tpr_jax.data.images.files import ImageTooLargeError, NotAnImageError
from tpr_jax.data.images.formats import openers
from tpr_jax.data.images.read import Crop, read_fitting, resize_image, use_file
from tpr_jax.data.images.rgb import to_array
from tpr_jax.errors import UserError
from tpr_jax.search.index.store import KEY, Index

__all__ = ["FORMATS", "MAX_UPLOAD_PIXELS", "SIZES", "ImageTooLargeError", "photo_jpeg", "read_upload"]

SIZES = {"small": 320, "large": 1600}  # pixels of the longer side, at most
# What browsers and cameras write; `formats.FORMATS` has more.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
MAX_UPLOAD_PIXELS = 50_000_000  # that are decoded for somebody who is not known


def read_upload(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """The uint8 [h, w, 3] pixels of an uploaded picture, with `size` = (height, width) resized to that.

    Nothing but the `FORMATS` is tried. Memory and time are bounded as `data.images.files` bounds them, and
    uploads that are decoded at once share the memory. Of a large JPEG the pixels count that are decoded.

    Raises:
      ImageTooLargeError: more than `MAX_UPLOAD_PIXELS`, or than there is memory for; nothing was decoded.
      UserError: it is empty, damaged, would take minutes to decode, or is no picture of the `FORMATS`.
    """
    if not data:
        raise UserError("the upload is empty: send the bytes of a picture")

    def pixels(image: Image.Image) -> np.ndarray:
        return to_array(image if size is None else resize_image(image, size))

    try:
        return use_file(data, "the upload", pixels, FORMATS, MAX_UPLOAD_PIXELS)
    except NotAnImageError as error:
        kind = f" ({error.kind})" if error.kind else ""
        known = ", ".join(name for name, *_ in openers(FORMATS))
        raise UserError(f"the upload is no picture that can be read{kind}: send {known}") from None


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
    pixels = read_fitting(path if box[0] is None else Crop(path, *box), SIZES[size])
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=88)
    return written.getvalue()
