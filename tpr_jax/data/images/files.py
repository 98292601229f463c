"""A picture's file -> a Pillow image, not decoded yet, at a scale whose memory and time are bounded."""

import contextlib
import errno
import io
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image

from tpr_jax.data.images import formats as image_formats
from tpr_jax.data.images.guard import DamagedPng, check_scans, count_scans, pixels_only
from tpr_jax.data.images.memory import FILES, MAX_DECODE_BYTES, decode_bytes
from tpr_jax.errors import UserError

# A photo of more pixels is decoded at 1/2, 1/4 or 1/8 of its sides, the largest with at most so many.
LARGE_PIXELS = 25_000_000
# That are decoded at all: Pillow's own warning threshold.
MAX_PIXELS = 89_478_485
# A JPEG is decoded reduced, without its pixels ever being there in full.
MAX_JPEG_PIXELS = 500_000_000
_DIVISORS = (1, 2, 4, 8)

_NAMES = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


class TooLarge(UserError):
    """A picture of more pixels, or that takes more memory, than are decoded."""


class NotPicture(UserError):
    """A file that is of none of the formats; `kind` says what it is, '' where that is not known."""

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


class Plan(NamedTuple):
    """How an opened picture is decoded."""

    image: Image.Image
    shrink: int  # the sides are divided by it after decoding
    size: tuple[int, int]  # width and height in the file, as they are stored
    bytes: int  # that decoding takes, at the peak


def not_regular(mode: int) -> str:
    """What the file of this `st_mode` is, if it is nothing to read from; '' for a regular file."""
    if stat.S_ISREG(mode):
        return ""
    return next((what for is_kind, what in _NAMES.items() if is_kind(mode)), "no regular file")


@contextlib.contextmanager
def open_regular(path: str | os.PathLike):
    """Opens a file for reading if it is a regular one, links followed; others might block for ever.

    Raises:
      OSError: it cannot be opened; with `errno.EINVAL` and a text that says so, it is no regular file.
    """
    if what := not_regular(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, f"is {what}, not a picture")
    # It may have been replaced since: without O_NONBLOCK, opening a pipe waits for a writer.
    with open(
        path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    ) as file:
        if what := not_regular(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, f"is {what}, not a picture")
        yield file


@contextlib.contextmanager
def file_bytes(path: str) -> Iterator[bytes]:
    """The bytes of a picture's file; waits until those that are held in this process leave room for them.

    Raises:
      UserError: it is missing, no regular file, cannot be read, or is too large to be a picture.
    """
    with contextlib.ExitStack() as held:
        try:
            file = held.enter_context(open_regular(path))
            size = os.fstat(file.fileno()).st_size
            if size > MAX_DECODE_BYTES:
                raise TooLarge(
                    f"{path}: the file is too large ({size:,} bytes): at most {MAX_DECODE_BYTES:,}"
                )
            held.enter_context(FILES.hold(size))
            data = file.read()
        except FileNotFoundError:
            raise UserError(f"{path}: no such picture: check the path") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise UserError(f"{path}: {why_not_opened(error)}") from None
        yield data


def why_not_opened(error: OSError | ValueError) -> str:
    """The error of `open_regular` in words."""
    if isinstance(error, ValueError):
        return f"cannot be read ({error}): check the path"
    if error.errno == errno.EINVAL and "not a picture" in str(error.strerror):
        return error.strerror
    return f"cannot be read ({error.strerror}): check the file's permissions"


def open_image(data: bytes, name: str, formats: Sequence[str] = image_formats.FORMATS) -> Image.Image:
    """Opens the bytes of a file as one of the formats, without decoding it.

    Pillow's `Image.open` has one limit of pixels for all formats, which only a variable of the whole process
    changes; so the formats are tried here.

    Raises:
      UserError: it is empty, damaged, of another format, or a raw photo.
    """
    if not data:
        raise UserError(f"{name}: the picture is empty (0 bytes): replace or remove it")
    damaged, kind = "", image_formats.format_of(data)
    if not kind and image_formats.foreign_kind(data):
        formats = []
    if kind == "PNG":
        try:
            data = pixels_only(data)
        except DamagedPng as error:
            raise damage(name, error) from None
    elif kind == "WEBP":
        _check_webp(data, name)
    if kind:
        formats = [kind] if kind in formats else []
    for _, factory, accepts in image_formats.openers(formats):
        try:
            told = not accepts or accepts(data[:64] if accepts is image_formats.is_heif else data[:16])
            if isinstance(told, str) or not told:
                continue
            image = factory(io.BytesIO(data), "")
        except Image.DecompressionBombError:
            raise TooLarge(f"{name}: the picture is too large: at most {MAX_PIXELS:,} pixels") from None
        except (
            SyntaxError,
            IndexError,
            TypeError,
            struct.error,
        ) as error:  # as Pillow has it: not that format
            damaged = damaged or (_one_line(error) if kind else "")
            continue
        except MemoryError:
            raise
        except Exception as error:  # a parser fed with damaged bytes may raise anything
            raise damage(name, error) from None
        if image_formats.is_raw(image, name):
            raise UserError(f"{name}: {image_formats.why_unreadable('x.dng')}")
        return image
    if damaged:
        raise damage(name, ValueError(damaged))
    why = image_formats.why_unreadable(name, data)
    raise NotPicture(f"{name}: {why}", image_formats.foreign_kind(data))


def plan(image: Image.Image, data: bytes, name: str, *, full: bool = False) -> Plan:
    """Sets an opened picture to the scale that it is decoded at.

    With `full`, for what is cut out of it, that is the picture's own as long as there is memory for that.

    Raises:
      TooLarge: no scale has few enough pixels, or takes little enough memory.
      UserError: it has no pixels, or too many scans.
    """
    size, jpeg = image.size, image.format in ("JPEG", "MPO")
    pixels = size[0] * size[1]
    if not pixels:
        raise UserError(f"{name}: the picture has no pixels")
    check_pixels(name, size, MAX_JPEG_PIXELS if jpeg else MAX_PIXELS)
    scans = _scans(image, data, jpeg)
    check_scans(name, scans, pixels)
    for divisor in _DIVISORS:
        draft, shrink = (divisor, 1) if jpeg else (1, divisor)
        needed = decode_bytes(image, draft, shrink, scans)
        fits = needed <= MAX_DECODE_BYTES
        if fits and (full or pixels <= LARGE_PIXELS * divisor**2):
            break
    else:
        raise TooLarge(
            f"{name}: decoding {size[0]} x {size[1]} pixels of {image.format} takes "
            f"{needed / 2**20:,.0f} MiB, over {MAX_DECODE_BYTES // 2**20} MiB: save it smaller or as JPEG"
        )
    if draft > 1:
        image.draft(None, (max(size[0] // draft, 1), max(size[1] // draft, 1)))
    return Plan(image, shrink, size, needed)


def check_pixels(name: str, size: tuple[int, int], limit: int) -> None:
    """Raises TooLarge where a picture of this width and height has more pixels than the limit."""
    if size[0] * size[1] > limit:
        raise TooLarge(f"{name}: the picture is too large ({size[0]} x {size[1]}): at most {limit:,} pixels")


def damage(name: str, error: Exception) -> UserError:
    """The error for a picture whose decoder raised `error`."""
    return UserError(f"{name}: damaged or cut-off picture ({_one_line(error)}): replace or remove it")


def _scans(image: Image.Image, data: bytes, jpeg: bool) -> int:
    if jpeg:
        scans = count_scans(data)
        return max(scans, 2) if "progressive" in image.info else scans
    if image.format == "TIFF" and "jpeg" in str(image.info.get("compression", "")):
        # Its strips or tiles are JPEGs of their own, each decoded for its part of the picture.
        strips = max(len(image.tag_v2.get(273) or image.tag_v2.get(324) or ()), 1)
        return -(-data.count(b"\xff\xda") // strips)
    return 1


def _check_webp(data: bytes, name: str) -> None:
    """Checks the size before WebP's decoder takes memory for it, which it does when it is opened."""
    start, kind = data[:30].ljust(30, b"\0"), data[12:16]
    if kind == b"VP8X":
        size = tuple(int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        size = tuple(int.from_bytes(start[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    check_pixels(name, size, MAX_PIXELS)


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:120]
