"""One picture from anywhere -> uint8 [H, W, 3]; what cannot be read right is an error that names the file."""

import io
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from tpr_jax.errors import UserError

# Pillow's own warning threshold: a larger picture is taken for a decompression bomb.
MAX_PIXELS = 89_478_485


class Crop(NamedTuple):
    """A part of a picture file: its upper left corner and size, in pixels of the upright picture."""

    path: str
    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.path} [{self.x}, {self.y}, {self.width}, {self.height}]"


class Stored(NamedTuple):
    """A picture file within something else: its bytes, or what reads them."""

    name: str  # for messages
    data: bytes | Callable[[], bytes]

    def __str__(self) -> str:
        return self.name


def read_image(source) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a picture to RGB.

    `source` is a path, a `Crop`, a `Stored` file, the bytes of one, a PIL image, or an array (uint8, or
    uint16 with white at 65535) of shape [h, w] or [h, w, 1, 3 or 4]. The EXIF orientation is applied,
    transparency is laid on white, 16 bits are scaled to 8 (not clipped), CMYK and palettes become RGB, and of
    an animation the first frame is taken. Of a crop that reaches beyond the picture what lies within counts.

    Raises:
      UserError: the file is missing, empty, cut off, too large or no picture, or a crop lies outside of it;
        the message names it.
    """
    if isinstance(source, Crop):
        return _crop(read_image(source.path), source)
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source)
    return np.asarray(_rgb_of(source))


def read_resized(source, size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """What `resize(read_image(source), size)` gives, to the bit, with fewer copies on the way."""
    if isinstance(source, Crop | np.ndarray):
        return resize(read_image(source), size)
    return np.asarray(_resized(_rgb_of(source), size))


def _rgb_of(source) -> Image.Image:
    """A path, the bytes of a file, or a PIL image -> its upright RGB pixels."""
    if isinstance(source, Stored):
        return _open_and_decode(source.data() if callable(source.data) else source.data, source.name)
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or "the PIL image"
        return _decode(source, os.fspath(name))
    if isinstance(source, bytes | bytearray | memoryview):
        return _open_and_decode(bytes(source), f"the picture of {len(source)} bytes")
    if isinstance(source, str | os.PathLike):
        return _open_and_decode(_read_file(os.fspath(source)), os.fspath(source))
    raise UserError(f"a picture must be a path, bytes, a PIL image or an array, not {type(source).__name__}")


def resize(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes to `size` = (height, width) pixels, bilinear.

    When shrinking, the triangle filter widens with the step between output pixels, so it is antialiased.
    """
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(_resized(Image.fromarray(image), size))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _crop(image: np.ndarray, crop: Crop) -> np.ndarray:
    top, left = max(crop.y, 0), max(crop.x, 0)
    part = image[top : max(crop.y + crop.height, 0), left : max(crop.x + crop.width, 0)]
    if not part.size:
        size = f"{image.shape[1]} x {image.shape[0]}"
        raise UserError(f"{crop}: the box [x, y, w, h] lies outside of the picture of {size} pixels")
    return np.ascontiguousarray(part)


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such picture: check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a picture") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the file's permissions") from None


def _open_and_decode(data: bytes, name: str) -> Image.Image:
    if not data:
        raise UserError(f"{name}: the picture is empty (0 bytes): replace or remove it")
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise UserError(f"{name}: the picture is too large: at most {MAX_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{name}: not a picture that can be read: replace or remove it") from None
    except MemoryError:
        raise
    except Exception as error:  # a parser fed with damaged bytes may raise anything
        raise UserError(
            f"{name}: damaged or cut-off picture ({_one_line(error)}): replace or remove it"
        ) from None
    with image:
        return _decode(image, name)


def _decode(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise UserError(f"{name}: the picture is too large ({size}): at most {MAX_PIXELS:,} pixels")
    if not image.width or not image.height:
        raise UserError(f"{name}: the picture has no pixels")
    try:
        image.load()
        return _to_rgb(_upright(image), name)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # as above: OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        message = f"{name}: damaged or cut-off picture ({_one_line(error)}): replace or remove it"
        raise UserError(message) from None


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; unreadable EXIF data does not spoil good pixels."""
    if image.format == "JPEG" and "exif" not in image.info and "xmp" not in image.info:
        return image  # most photos: nowhere to say an orientation, and to look costs a tenth of decoding
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_wide_grey_to_uint8(np.asarray(image), name)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _wide_grey_to_uint8(grey: np.ndarray, name: str) -> np.ndarray:
    """Greyscale of more than 8 bits [h, w] -> uint8. Integers are 16 bits in whatever type Pillow holds
    them; floats have white at 1. Anything else has no known white, and a guess would spoil it unseen."""
    white = 1.0 if grey.dtype.kind == "f" else 65535
    if not (grey.min() >= 0 and grey.max() <= white):  # so written that NaN fails
        found = f"{grey.min()} to {grey.max()}"
        raise UserError(f"{name}: grey values {found} are outside 0 to {white}: save the picture in 8 bits")
    return np.rint(grey.astype(np.float64) * (255 / white)).astype(np.uint8)


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    shape = array.shape
    if array.dtype not in (np.uint8, np.uint16):
        raise UserError(f"an array as a picture must be uint8 (or uint16), not {array.dtype}")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        raise UserError(f"an array as a picture must be [h, w], or [h, w, 1, 3 or 4], not {list(shape)}")
    if array.dtype == np.uint16:
        array = _wide_grey_to_uint8(array, "the array")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        return np.asarray(_to_rgb(Image.fromarray(np.ascontiguousarray(array), "RGBA"), "the array"))
    return array


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:120]
