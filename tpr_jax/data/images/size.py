"""Reads the size of an image from its header, without decoding it."""

import os

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from tpr_jax.data.images.files import open_regular
from tpr_jax.data.images.formats import FORMATS, format_of, is_heif, openers

_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = (5, 6, 7, 8)  # its values that exchange width and height


def upright_size(path: str | os.PathLike) -> tuple[int, int] | None:
    """Returns width and height of an image with its EXIF orientation applied; None if they cannot be read."""
    try:
        with open_regular(path) as file:
            start = file.read(64)
            kind = format_of(start)
            for _, factory, accepts in openers([kind] if kind else FORMATS):
                if accepts and accepts(start if accepts is is_heif else start[:16]) is not True:
                    continue
                file.seek(0)
                image = factory(file, "")
                width, height = _stored_size(image)
                return (height, width) if _is_turned(image) else (width, height)
    except Exception:  # a parser may raise anything on damaged data
        return None
    return None


def _stored_size(image: Image.Image) -> tuple[int, int]:
    # Some releases of Pillow turn the size of a TIFF already, others only its pixels.
    if isinstance(image, TiffImageFile):
        return image.tag_v2[256], image.tag_v2[257]
    return image.size


def _is_turned(image: Image.Image) -> bool:
    # Pillow would decode a whole PNG to look for an orientation behind its pixels.
    if image.format == "PNG" and not image.info.keys() & {"exif", "Raw profile type exif"}:
        return False
    return image.getexif().get(_ORIENTATION) in _TURNED
