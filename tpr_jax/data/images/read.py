"""One picture from anywhere -> uint8 [H, W, 3]; what cannot be read right is an error that names the file."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile

from tpr_jax.data.images import files as image_files
from tpr_jax.data.images import rgb as image_rgb
from tpr_jax.data.images.files import LARGE_PIXELS, MAX_PIXELS, check_pixels, damage
from tpr_jax.data.images.formats import FORMATS, why_unreadable
from tpr_jax.data.images.guard import check_scans, count_scans
from tpr_jax.data.images.memory import within_memory
from tpr_jax.errors import UserError

__all__ = [
    *("LARGE_PIXELS", "MAX_PIXELS", "Crop", "Stored"),
    *("read_fitting", "read_image", "read_parts", "read_resized", "resize", "resize_image", "use_file"),
]


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
    uint16 with white at 65535) of shape [h, w] or [h, w, 1, 3 or 4]. Files are of one of the
    `formats.FORMATS`. The EXIF orientation is applied, transparency is laid on white, 16 bits are
    scaled to 8 (not clipped), CMYK and palettes become RGB, and of an animation the first frame is taken. Of
    a crop that reaches beyond the picture what lies within counts.

    A file or PIL image of more than `LARGE_PIXELS` comes at 1/2, 1/4 or 1/8 of its sides, the largest with at
    most so many pixels; a crop of it comes as it is in the file, as long as there is memory to decode that.
    Arrays stay as large as they are.

    Raises:
      UserError: the file is missing, no regular file, empty, cut off, too large or no picture, would take
        minutes to decode, or a crop lies outside of it; the message names it.
    """
    if isinstance(source, np.ndarray):
        return image_rgb.array_to_rgb(source)
    return _decoded(source, lambda image: image_rgb.to_array(image))


def read_resized(source, size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """What `resize(read_image(source), size)` gives, to the bit, with fewer copies on the way."""
    if isinstance(source, np.ndarray):
        return resize(read_image(source), size)
    return _decoded(source, lambda image: np.asarray(resize_image(image, size)))


def read_fitting(source, side: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """What `read_image` gives, made smaller (Lanczos) where a side is longer than `side` pixels."""

    def fit(image: Image.Image) -> np.ndarray:
        image = image.copy() if image is source else image
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return np.asarray(image)

    return _decoded(source, fit)


def read_parts(
    path: str | os.PathLike, boxes: Sequence[tuple[int, int, int, int] | None], size: tuple[int, int]
) -> tuple[list[UInt8[np.ndarray, "h2 w2 3"] | None], tuple[int, int]]:
    """Parts of one file, each resized to `size` = (height, width), and the width and height of the whole.

    A box is (x, y, width, height) in pixels of the upright picture; None is all of it. Each is what
    `read_resized` gives for the path, or for the `Crop`, to the bit; None for a box that lies outside.

    Raises:
      UserError: as `read_image`.
    """
    path = os.fspath(path)
    wholes, parts, found = [box is None for box in boxes], {}, {}

    def cut(image: Image.Image, whole: tuple[int, int]) -> None:
        found["size"] = whole
        for row, box in enumerate(boxes):
            if box is not None:
                part = _part(image, whole, box)
                parts[row] = None if part is None else np.asarray(resize_image(part, size))

    with image_files.file_bytes(path) as data:
        if not all(wholes):
            _decode_file(data, path, cut, full=True)
        if any(wholes):

            def shrink(image: Image.Image, whole: tuple[int, int]) -> np.ndarray:
                found["size"] = whole
                return np.asarray(resize_image(image, size))

            resized = _decode_file(data, path, shrink)
            parts.update({row: resized for row, is_whole in enumerate(wholes) if is_whole})
    return [parts[row] for row in range(len(boxes))], found.get("size", (0, 0))


def use_file(
    data: bytes,
    name: str,
    use: Callable[[Image.Image], object],
    formats: Sequence[str] = FORMATS,
    max_pixels: int = MAX_PIXELS,
):
    """Decodes the bytes of a file as one of the formats, and returns `use(its upright RGB image)`.

    `use` runs within the memory that the process has for decoding, and must not return the image itself.
    `max_pixels` are decoded, after a JPEG was reduced.

    Raises:
      UserError: as `read_image`.
    """
    with image_files.open_image(data, name, formats) as image:
        plan = image_files.plan(image, data, name)
        check_pixels(name, image.size, max_pixels)
        return within_memory(plan.bytes, lambda: use(_decode(image, name, plan.shrink)))


def _decoded(source, use: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """`use` of the upright RGB pixels of a path, a crop, the bytes of a file, or a PIL image."""
    if isinstance(source, Crop):

        def cut(image: Image.Image, whole: tuple[int, int]) -> np.ndarray:
            part = _part(image, whole, source[1:])
            if part is None:
                size = f"{whole[0]} x {whole[1]}"
                raise UserError(
                    f"{source}: the box [x, y, w, h] lies outside of the picture of {size} pixels"
                )
            return use(part)

        with image_files.file_bytes(os.fspath(source.path)) as data:
            return _decode_file(data, os.fspath(source.path), cut, full=True)
    if isinstance(source, Stored):
        data = source.data() if callable(source.data) else source.data
        return use_file(data, source.name, use)
    if isinstance(source, Image.Image):
        return use(_of_pil(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return use_file(bytes(source), f"the picture of {len(source)} bytes", use)
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        with image_files.file_bytes(path) as data:
            return use_file(data, path, use)
    raise UserError(f"a picture must be a path, bytes, a PIL image or an array, not {type(source).__name__}")


def _decode_file(data: bytes, name: str, use: Callable, *, full: bool = False):
    """As `use_file`, but `use` gets the upright file's width and height too."""
    with image_files.open_image(data, name) as image:
        plan = image_files.plan(image, data, name, full=full)
        width, height = plan.size

        def work():
            decoded = _decode(image, name, plan.shrink)
            turned = (decoded.width > decoded.height) != (width > height)
            return use(decoded, (height, width) if turned else (width, height))

        return within_memory(plan.bytes, work)


def _of_pil(image: Image.Image) -> Image.Image:
    """A PIL image's upright RGB pixels; one that is not decoded yet is looked at as a file is."""
    name = os.fspath(getattr(image, "filename", "") or "the PIL image")
    check_pixels(name, image.size, MAX_PIXELS)
    if not image.width or not image.height:
        raise UserError(f"{name}: the picture has no pixels")
    if isinstance(image, ImageFile.ImageFile) and image.tile:
        if image.format == "EPS":  # Pillow would start Ghostscript
            raise UserError(f"{name}: {why_unreadable('x.eps')}")
        if image.format in ("JPEG", "MPO") and getattr(image, "fp", None):
            at = image.fp.tell()
            image.fp.seek(0)
            check_scans(name, count_scans(image.fp.read()), image.width * image.height)
            image.fp.seek(at)
    shrink = next(d for d in (1, 2, 4, 8) if image.width * image.height <= LARGE_PIXELS * d * d)
    return _decode(image, name, shrink)


def resize(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes to `size` = (height, width) pixels, bilinear.

    When shrinking, the triangle filter widens with the step between output pixels, so it is antialiased.
    """
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(resize_image(Image.fromarray(image), size))


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`resize` for a PIL image, which comes back itself where it has the size."""
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _part(image: Image.Image, whole: tuple[int, int], box: Sequence[int]) -> Image.Image | None:
    """What lies within the picture of a box in pixels of the `whole`; None: nothing. The image may be the
    whole at a smaller scale."""
    x, y, width, height = box
    edges = [max(x, 0), max(y, 0), min(x + width, whole[0]), min(y + height, whole[1])]
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        return None
    if image.size != whole:
        scales = (image.width / whole[0], image.height / whole[1]) * 2
        edges = [round(edge * scale) for edge, scale in zip(edges, scales, strict=True)]
        edges[:2] = min(edges[0], image.width - 1), min(edges[1], image.height - 1)
        edges[2:] = max(edges[2], edges[0] + 1), max(edges[3], edges[1] + 1)
    return image.crop(edges)


def _decode(image: Image.Image, name: str, shrink: int = 1) -> Image.Image:
    try:
        image.load()
        if shrink > 1:
            image = image_rgb.shrink(image, name, shrink)
        return image_rgb.to_rgb(image_rgb.upright(image), name)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a parser fed with damaged bytes may raise anything
        raise damage(name, error) from None
