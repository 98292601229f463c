"""Images that clients upload, and images that the server sends.

The server re-encodes every image that it sends from its pixels. It therefore sends no EXIF data, no location
and no embedded thumbnail, and of a photo with a box only the pixels inside the box.
"""

import contextlib
import io
import os
import stat
from collections.abc import Generator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tpr_jax.data.images.files import ImageTooLargeError, NotAnImageError
from tpr_jax.data.images.formats import openers
from tpr_jax.data.images.read import Crop, read_fitting, resize_image, use_file
from tpr_jax.data.images.rgb import to_array
from tpr_jax.errors import UserError
from tpr_jax.search.index.store import FILE_COLUMNS, KEY_COLUMNS, Index, is_crop
from tpr_jax.search.server.blur import blur_head
from tpr_jax.utils.hashing import sha256

__all__ = [
    "FORMATS",
    "MAX_UPLOAD_PIXELS",
    "SIZES",
    "ChangedPhotoError",
    "ImageTooLargeError",
    "photo_jpeg",
    "read_upload",
]

SIZES = {"small": 320, "large": 1600}  # maximum length of the longer side in pixels
# The formats that browsers and cameras write; `formats.FORMATS` has more.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
MAX_UPLOAD_PIXELS = 50_000_000  # decoded pixels of one upload


class ChangedPhotoError(UserError):
    """A photo is no longer the one that was indexed."""


def read_upload(data: bytes, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an uploaded image.

    Only the `FORMATS` are tried. `data.images.files` bounds memory and time, and uploads that are decoded at
    the same time share the memory. The pixel limit applies to a large JPEG after its reduced decoding.

    Args:
      data: the bytes of the image file.
      size: (height, width) to resize to; None keeps the size.

    Returns:
      RGB pixels.

    Raises:
      ImageTooLargeError: it has more than `MAX_UPLOAD_PIXELS`, or needs too much memory; nothing was decoded.
      UserError: it is empty or damaged, would take minutes to decode, or has none of the `FORMATS`.
    """
    if not data:
        raise UserError("the upload is empty: send the bytes of an image")

    def to_pixels(image: Image.Image) -> np.ndarray:
        return to_array(image if size is None else resize_image(image, size))

    try:
        return use_file(data, "the upload", to_pixels, FORMATS, MAX_UPLOAD_PIXELS)
    except NotAnImageError as error:
        kind = f" ({error.kind})" if error.kind else ""
        supported = ", ".join(name for name, *_ in openers(FORMATS))
        raise UserError(f"the upload is not an image that can be read{kind}: send {supported}") from None


def photo_jpeg(index: Index, row: int, size: str, *, blur_faces: bool = False) -> bytes:
    """Returns the photo of a row, cropped to its box, as a JPEG without metadata.

    Args:
      index: the index.
      row: the row of the photo.
      size: a key of `SIZES`; smaller photos are not enlarged.
      blur_faces: blur the upper part of the photo, see `blur`.

    Raises:
      IndexError: the index does not have this row.
      ChangedPhotoError: the file is no longer the one that was indexed: it may show somebody else.
      UserError: the photo no longer exists or cannot be read.
    """
    if not 0 <= row < index.table.num_rows:
        raise IndexError(row)
    path, *box, size_then, mtime_ns, digest = (
        index.table[name][row].as_py() for name in KEY_COLUMNS + FILE_COLUMNS
    )
    path = os.fspath(Path(index.info["photos"]) / path)
    # A person of a video is cut out already: the box is in pixels of the video's frame.
    whole = box[0] is None or is_crop(index.folder, path)
    with _unchanged(path, (size_then, mtime_ns), digest):
        pixels = read_fitting(path if whole else Crop(path, *box), SIZES[size])
    if blur_faces:
        pixels = blur_head(pixels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


@contextlib.contextmanager
def _unchanged(path: str, indexed: tuple[int, int], digest: bytes) -> Generator[None]:
    """Checks that a file is the one that was indexed, before it is read and after that.

    A copy of it, such as one from a backup, has another modification time, but the same content.

    Args:
      path: the file.
      indexed: its size and modification time in ns when it was indexed.
      digest: its SHA-256 then.

    Raises:
      ChangedPhotoError: it is another one.
      UserError: it cannot be read.
    """
    before = _stamp(path)
    if before != indexed and (before[0] != indexed[0] or sha256([path]) != digest.hex()):
        raise _changed(path)
    yield
    if _stamp(path) != before:
        raise _changed(path)


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the photo no longer exists ({error}); index the photos again") from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would block whoever reads it
        raise UserError(f"{path}: is not a file; index the photos again")
    return status.st_size, status.st_mtime_ns


def _changed(path: str) -> ChangedPhotoError:
    return ChangedPhotoError(f"{path}: has changed since it was indexed: index the photos again")
