"""Reads one image from any source as uint8 [h, w, 3]; errors name the image."""

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
    *("read_fitting", "read_image", "read_crops", "read_resized", "resize", "resize_image", "use_file"),
]


class Crop(NamedTuple):
    """A part of an image file: its upper left corner and size, in pixels of the upright image."""

    path: str
    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.path} [{self.x}, {self.y}, {self.width}, {self.height}]"


class Stored(NamedTuple):
    """An image file within another file: its content, or a function that reads it."""

    name: str  # for messages
    data: bytes | Callable[[], bytes]

    def __str__(self) -> str:
        return self.name


def read_image(source) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image to RGB.

    Applies the EXIF orientation, composites transparency on white, scales 16 bits to 8 (without clipping),
    converts CMYK and palettes to RGB, and takes the first frame of an animation. A crop that extends beyond
    the image is limited to it.

    A file or PIL image of more than `LARGE_PIXELS` is reduced to 1/2, 1/4 or 1/8 of its sides: the largest
    scale with at most that many pixels. A crop of it has the file's own scale if there is enough memory to
    decode that. Arrays are not reduced.

    Args:
      source: a path, a `Crop`, a `Stored` file, the content of a file, a PIL image, or an array (uint8, or
        uint16 with white at 65535) of shape [h, w] or [h, w, 1, 3 or 4]. Files have one of the
        `formats.FORMATS`.

    Raises:
      UserError: the file is missing, not a regular file, empty, truncated, too large, not an image, or would
        take minutes to decode; or a crop is outside of it. The message names the file.
    """
    if isinstance(source, np.ndarray):
        return image_rgb.array_to_rgb(source)
    return _decoded(source, lambda image: image_rgb.to_array(image))


def read_resized(source, size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Computes `resize(read_image(source), size)`, bit for bit, with fewer copies."""
    if isinstance(source, np.ndarray):
        return resize(read_image(source), size)
    return _decoded(source, lambda image: np.asarray(resize_image(image, size)))


def read_fitting(source, side: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Reads an image with `read_image`, and reduces it (Lanczos) so that no side exceeds `side` pixels."""

    def fit(image: Image.Image) -> np.ndarray:
        image = image.copy() if image is source else image
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return np.asarray(image)

    return _decoded(source, fit)


def read_crops(
    path: str | os.PathLike, boxes: Sequence[tuple[int, int, int, int] | None], size: tuple[int, int]
) -> tuple[list[UInt8[np.ndarray, "h2 w2 3"] | None], tuple[int, int]]:
    """Reads several crops of one file, each resized, which decodes the file at most twice.

    Each crop equals what `read_resized` returns for the path or the `Crop`, bit for bit.

    Args:
      path: the file.
      boxes: (x, y, width, height) in pixels of the upright image, or None for the whole image.
      size: height and width of each result.

    Returns:
      The crops, None for a box outside of the image; and the width and height of the whole image.

    Raises:
      UserError: as for `read_image`.
    """
    path = os.fspath(path)
    crops, full_size = {}, (0, 0)

    def crop_boxes(image: Image.Image, full_size: tuple[int, int]) -> tuple[int, int]:
        for row, box in enumerate(boxes):
            if box is not None:
                crop = _crop(image, full_size, box)
                crops[row] = None if crop is None else np.asarray(resize_image(crop, size))
        return full_size

    def resize_whole(image: Image.Image, full_size: tuple[int, int]) -> tuple[int, int]:
        resized = np.asarray(resize_image(image, size))
        crops.update({row: resized for row, box in enumerate(boxes) if box is None})
        return full_size

    with image_files.read_file(path) as data:
        if any(box is not None for box in boxes):
            full_size = _decode_file(data, path, crop_boxes, full=True)
        if any(box is None for box in boxes):
            full_size = _decode_file(data, path, resize_whole)
    return [crops[row] for row in range(len(boxes))], full_size


def use_file(
    data: bytes,
    name: str,
    use: Callable[[Image.Image], object],
    formats: Sequence[str] = FORMATS,
    max_pixels: int = MAX_PIXELS,
):
    """Decodes the content of a file and returns `use` of its upright RGB image.

    Args:
      data: the file's content.
      name: the file's name, for messages.
      use: runs within the process's memory limit for decoding; must not return the image itself.
      formats: the allowed formats.
      max_pixels: limit on the decoded pixels, after a JPEG is reduced.

    Raises:
      UserError: as for `read_image`.
    """
    with image_files.open_image(data, name, formats) as image:
        plan = image_files.plan(image, data, name)
        check_pixels(name, image.size, max_pixels)
        return within_memory(plan.bytes, lambda: use(_decode(image, name, plan.shrink)))


def _decoded(source, use: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Returns `use` of the upright RGB image of a path, a crop, the content of a file, or a PIL image."""
    if isinstance(source, Crop):

        def use_crop(image: Image.Image, full_size: tuple[int, int]) -> np.ndarray:
            crop = _crop(image, full_size, source[1:])
            if crop is None:
                size = f"{full_size[0]} x {full_size[1]}"
                raise UserError(f"{source}: the box [x, y, w, h] is outside of the image of {size} pixels")
            return use(crop)

        with image_files.read_file(os.fspath(source.path)) as data:
            return _decode_file(data, os.fspath(source.path), use_crop, full=True)
    if isinstance(source, Stored):
        data = source.data() if callable(source.data) else source.data
        return use_file(data, source.name, use)
    if isinstance(source, Image.Image):
        return use(_decode_pil(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return use_file(bytes(source), f"the image of {len(source)} bytes", use)
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        with image_files.read_file(path) as data:
            return use_file(data, path, use)
    raise UserError(f"an image must be a path, bytes, a PIL image or an array, not {type(source).__name__}")


def _decode_file(data: bytes, name: str, use: Callable, *, full: bool = False):
    """Decodes as `use_file` does, but `use` also gets the width and height of the whole upright image."""
    with image_files.open_image(data, name) as image:
        plan = image_files.plan(image, data, name, full=full)
        width, height = plan.size

        def work():
            decoded = _decode(image, name, plan.shrink)
            is_rotated = (decoded.width > decoded.height) != (width > height)
            return use(decoded, (height, width) if is_rotated else (width, height))

        return within_memory(plan.bytes, work)


def _decode_pil(image: Image.Image) -> Image.Image:
    """Returns the upright RGB image of a PIL image; checks one that is not decoded yet like a file."""
    name = os.fspath(getattr(image, "filename", "") or "the PIL image")
    check_pixels(name, image.size, MAX_PIXELS)
    if not image.width or not image.height:
        raise UserError(f"{name}: the image has no pixels")
    if isinstance(image, ImageFile.ImageFile) and image.tile:
        if image.format == "EPS":  # Pillow would start Ghostscript
            raise UserError(f"{name}: {why_unreadable('x.eps')}")
        if image.format in ("JPEG", "MPO") and (file := getattr(image, "fp", None)):
            position = file.tell()
            file.seek(0)
            check_scans(name, count_scans(file.read()), image.width * image.height)
            file.seek(position)
    shrink = next(d for d in (1, 2, 4, 8) if image.width * image.height <= LARGE_PIXELS * d * d)
    return _decode(image, name, shrink)


def resize(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes an image to `size` = (height, width) bilinearly.

    A reduction is antialiased: the triangle filter widens with the step between output pixels.
    """
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(resize_image(Image.fromarray(image), size))


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resizes a PIL image like `resize`; returns the image itself if it already has the size."""
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _crop(image: Image.Image, full_size: tuple[int, int], box: Sequence[int]) -> Image.Image | None:
    """Crops a box, limited to the image; returns None if it is outside.

    The box is in pixels of the full size (width, height); the image may be at a smaller scale.
    """
    x, y, width, height = box
    edges = [max(x, 0), max(y, 0), min(x + width, full_size[0]), min(y + height, full_size[1])]
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        return None
    if image.size != full_size:
        scales = (image.width / full_size[0], image.height / full_size[1]) * 2
        edges = [round(edge * scale) for edge, scale in zip(edges, scales, strict=True)]
        edges[:2] = min(edges[0], image.width - 1), min(edges[1], image.height - 1)
        edges[2:] = max(edges[2], edges[0] + 1), max(edges[3], edges[1] + 1)
    left, top, right, bottom = edges
    return image.crop((left, top, right, bottom))


def _decode(image: Image.Image, name: str, shrink: int = 1) -> Image.Image:
    try:
        image.load()
        if shrink > 1:
            image = image_rgb.shrink(image, name, shrink)
        return image_rgb.to_rgb(image_rgb.upright(image), name)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a parser may raise anything on damaged data
        raise damage(name, error) from None
