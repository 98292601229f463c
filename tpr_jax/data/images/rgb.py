"""Converts decoded images of any kind to upright RGB."""

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageOps

from tpr_jax.errors import UserError

_STRIP = 256  # rows to convert at a time, which avoids a second copy of a whole image


def to_array(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Computes `np.asarray(image)` without a temporary second copy."""
    if image.height <= _STRIP:
        return np.asarray(image)
    out = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        out[top : top + _STRIP] = np.asarray(strip)
    return out


def shrink(image: Image.Image, name: str, divisor: int) -> Image.Image:
    """Averages each square of `divisor` x `divisor` pixels; keeps the metadata with the orientation."""
    is_reducible = "transparency" not in image.info and image.mode in ("L", "RGB", "CMYK", "RGBA", "LA")
    small = (image if is_reducible else to_rgb(image, name)).reduce(divisor)
    small.info.update({key: value for key, value in image.info.items() if key != "transparency"})
    return small


def upright(image: Image.Image) -> Image.Image:
    """Rotates an image according to its EXIF orientation; ignores unreadable EXIF data."""
    if image.format == "JPEG" and "exif" not in image.info and "xmp" not in image.info:
        return image  # most photos have no orientation, and looking for it takes a tenth of the decoding time
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Converts an image of any mode to RGB, with transparency composited on white.

    Raises:
      UserError: the gray values have no known white.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_gray(image, name).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _wide_gray(image: Image.Image, name: str) -> Image.Image:
    """Converts a grayscale image of more than 8 bits to 8 bits, by rows; transparency becomes white."""
    transparent = image.info.get("transparency")  # the one gray value of a PNG that is transparent
    gray = Image.new("L", image.size)
    for top in range(0, image.height, _STRIP):
        rows = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        narrow = _wide_gray_to_uint8(np.asarray(rows), name)
        if isinstance(transparent, int):
            narrow = np.where(np.asarray(rows) == transparent, np.uint8(255), narrow)
        gray.paste(Image.fromarray(narrow), (0, top))
    return gray


def _wide_gray_to_uint8(gray: Shaped[np.ndarray, "h w *c"], name: str) -> UInt8[np.ndarray, "h w *c"]:
    """Converts gray values of more than 8 bits to uint8.

    Integers have 16 bits, whatever Pillow's type for them; floats have white at 1. Other values have no known
    white, and a guess would silently distort them.
    """
    white = 1.0 if gray.dtype.kind == "f" else 65535
    if not (gray.min() >= 0 and gray.max() <= white):  # written so that NaN fails
        extent = f"{gray.min()} to {gray.max()}"
        raise UserError(f"{name}: gray values {extent} are outside 0 to {white}: save the image with 8 bits")
    return np.rint(gray.astype(np.float64) * (255 / white)).astype(np.uint8)


def array_to_rgb(array: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Converts an array [h, w] or [h, w, 1, 3 or 4], uint8 or uint16, to RGB.

    Raises:
      UserError: the array has another shape or type.
    """
    shape = array.shape
    if array.dtype not in (np.uint8, np.uint16):
        raise UserError(f"an image array must be uint8 (or uint16), not {array.dtype}")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        raise UserError(f"an image array must be [h, w], or [h, w, 1, 3 or 4], not {list(shape)}")
    if array.dtype == np.uint16:
        array = _wide_gray_to_uint8(array, "the array")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        return np.asarray(to_rgb(Image.fromarray(np.ascontiguousarray(array), "RGBA"), "the array"))
    return array
