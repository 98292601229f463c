"""Decoded pictures of any kind -> upright RGB."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from tpr_jax.errors import UserError

_STRIP = 256  # rows converted at once, so that no second copy of a whole picture is needed


def to_array(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """`np.asarray(image)`, without a second copy of it on the way."""
    if image.height <= _STRIP:
        return np.asarray(image)
    out = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP):
        out[top : top + _STRIP] = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
    return out


def shrink(image: Image.Image, name: str, divisor: int) -> Image.Image:
    """The mean of each square of `divisor` x `divisor` pixels; what says how to turn it stays."""
    plain = "transparency" not in image.info and image.mode in ("L", "RGB", "CMYK", "RGBA", "LA")
    small = (image if plain else to_rgb(image, name)).reduce(divisor)
    small.info.update({key: value for key, value in image.info.items() if key != "transparency"})
    return small


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; unreadable EXIF data does not spoil good pixels."""
    if image.format == "JPEG" and "exif" not in image.info and "xmp" not in image.info:
        return image  # most photos: nowhere to say an orientation, and to look costs a tenth of decoding
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """RGB of any mode, transparency laid on white. Raises UserError for gray values of no known white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_gray(image, name).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _wide_gray(image: Image.Image, name: str) -> Image.Image:
    """Grayscale of more than 8 bits in 8 bits, some rows at a time."""
    gray = Image.new("L", image.size)
    for top in range(0, image.height, _STRIP):
        rows = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        gray.paste(Image.fromarray(_wide_gray_to_uint8(np.asarray(rows), name)), (0, top))
    return gray


def _wide_gray_to_uint8(gray: np.ndarray, name: str) -> np.ndarray:
    """Grayscale of more than 8 bits [h, w] -> uint8. Integers are 16 bits in whatever type Pillow holds
    them; floats have white at 1. Anything else has no known white, and a guess would spoil it unseen."""
    white = 1.0 if gray.dtype.kind == "f" else 65535
    if not (gray.min() >= 0 and gray.max() <= white):  # so written that NaN fails
        found = f"{gray.min()} to {gray.max()}"
        raise UserError(f"{name}: gray values {found} are outside 0 to {white}: save the picture in 8 bits")
    return np.rint(gray.astype(np.float64) * (255 / white)).astype(np.uint8)


def array_to_rgb(array: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of an array [h, w] or [h, w, 1, 3 or 4], uint8 or uint16. Raises UserError for any other."""
    shape = array.shape
    if array.dtype not in (np.uint8, np.uint16):
        raise UserError(f"an array as a picture must be uint8 (or uint16), not {array.dtype}")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        raise UserError(f"an array as a picture must be [h, w], or [h, w, 1, 3 or 4], not {list(shape)}")
    if array.dtype == np.uint16:
        array = _wide_gray_to_uint8(array, "the array")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        return np.asarray(to_rgb(Image.fromarray(np.ascontiguousarray(array), "RGBA"), "the array"))
    return array
