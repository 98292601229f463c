"""Opens image files with Pillow, not decoded yet, at a scale that bounds memory and time."""

import contextlib
import errno
import io
import os
import stat
import struct
from collections.abc import Generator, Sequence
from typing import NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from tpr_jax.data.images import formats as image_formats
from tpr_jax.data.images.guard import DamagedPngError, check_scans, count_scans, pixels_only
from tpr_jax.data.images.memory import FILES, MAX_DECODE_BYTES, decode_bytes
from tpr_jax.errors import UserError

# A larger image is decoded at 1/2, 1/4 or 1/8 of its sides: the largest scale with at most this many pixels.
LARGE_PIXELS = 25_000_000
# A larger image is rejected. This is Pillow's own warning threshold.
MAX_PIXELS = 89_478_485
# A JPEG is reduced while it is decoded, without all its pixels ever being in memory.
MAX_JPEG_PIXELS = 500_000_000
_DIVISORS = (1, 2, 4, 8)

_NAMES = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


class ImageTooLargeError(UserError):
    """An image with too many pixels, or that takes too much memory to decode."""


class NotAnImageError(UserError):
    """A file of no supported format; `kind` says what it is, or is '' if that is unknown."""

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


class Plan(NamedTuple):
    """How to decode an opened image."""

    image: Image.Image
    shrink: int  # divisor of the sides after decoding
    size: tuple[int, int]  # width and height as stored in the file
    bytes: int  # peak memory of decoding


def describe_non_regular(mode: int) -> str:
    """Describes the file with this `st_mode`; returns '' for a regular file."""
    if stat.S_ISREG(mode):
        return ""
    return next((what for is_kind, what in _NAMES.items() if is_kind(mode)), "not a regular file")


@contextlib.contextmanager
def open_regular(path: str | os.PathLike):
    """Opens a regular file for reading, following links; reading from others might block forever.

    Raises:
      OSError: the file cannot be opened; with `errno.EINVAL`, it is not a regular file.
    """
    if what := describe_non_regular(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, f"is {what}, not an image")

    def open_nonblocking(name: str, flags: int) -> int:
        # The file may have been replaced since; without O_NONBLOCK, opening a pipe waits for a writer.
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=open_nonblocking) as file:
        if what := describe_non_regular(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, f"is {what}, not an image")
        yield file


@contextlib.contextmanager
def read_file(path: str) -> Generator[bytes, None, None]:
    """Reads an image file, once the files that this process holds in memory leave room for it.

    Yields:
      The file's content.

    Raises:
      UserError: the file is missing, not a regular file, unreadable, or too large to be an image.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_regular(path))
            size = os.fstat(file.fileno()).st_size
            if size > MAX_DECODE_BYTES:
                raise ImageTooLargeError(
                    f"{path}: the file is too large ({size:,} bytes): at most {MAX_DECODE_BYTES:,}"
                )
            stack.enter_context(FILES.hold(size))
            data = file.read()
        except FileNotFoundError:
            raise UserError(f"{path}: no such image: check the path") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise UserError(f"{path}: {describe_open_error(error)}") from None
        yield data


def describe_open_error(error: OSError | ValueError) -> str:
    """Describes an error of `open_regular`."""
    if isinstance(error, ValueError):
        return f"cannot be read ({error}): check the path"
    if error.errno == errno.EINVAL and "not an image" in str(error.strerror):
        return str(error.strerror)
    return f"cannot be read ({error.strerror}): check the file's permissions"


def open_image(data: bytes, name: str, formats: Sequence[str] = image_formats.FORMATS) -> Image.Image:
    """Opens the content of a file as one of the formats, without decoding it.

    Tries the formats itself, because the pixel limit of Pillow's `Image.open` can only be changed for all
    formats and the whole process.

    Args:
      data: the file's content.
      name: the file's name, for messages.
      formats: the formats to try, of `formats.FORMATS`.

    Raises:
      UserError: the file is empty, damaged, of another format, or a raw photo.
    """
    if not data:
        raise UserError(f"{name}: the image is empty (0 bytes): replace or remove it")
    damaged, kind = "", image_formats.format_of(data)
    data = _check_content(data, kind, name)
    if kind:
        formats = [kind] if kind in formats else []
    elif image_formats.unsupported_kind(data):
        formats = []
    for _, factory, accepts in image_formats.openers(formats):
        try:
            accepted = not accepts or accepts(data[:64] if accepts is image_formats.is_heif else data[:16])
            if isinstance(accepted, str) or not accepted:
                continue
            image = factory(io.BytesIO(data), "")
        except Image.DecompressionBombError:
            raise ImageTooLargeError(
                f"{name}: the image is too large: at most {MAX_PIXELS:,} pixels"
            ) from None
        except (SyntaxError, IndexError, TypeError, struct.error) as error:  # Pillow's "not this format"
            damaged = damaged or (_one_line(error) if kind else "")
            continue
        except MemoryError:
            raise
        except Exception as error:  # a parser may raise anything on damaged data
            raise damage(name, error) from None
        if image_formats.is_raw(image, name):
            raise UserError(f"{name}: {image_formats.why_unreadable('x.dng')}")
        return image
    if damaged:
        raise damage(name, ValueError(damaged))
    why = image_formats.why_unreadable(name, data)
    raise NotAnImageError(f"{name}: {why}", image_formats.unsupported_kind(data))


def _check_content(data: bytes, kind: str, name: str) -> bytes:
    """Checks the content of a PNG or WebP file before Pillow opens it; returns what Pillow should open."""
    if kind == "PNG":
        try:
            return pixels_only(data)
        except DamagedPngError as error:
            raise damage(name, error) from None
    if kind == "WEBP":
        _check_webp(data, name)
    return data


def plan(image: Image.Image, data: bytes, name: str, *, full: bool = False) -> Plan:
    """Chooses the scale at which an opened image is decoded.

    Args:
      image: the opened image.
      data: the file's content.
      name: the file's name, for messages.
      full: whether to decode at full scale, for crops, if memory allows.

    Raises:
      ImageTooLargeError: the image has too many pixels or takes too much memory at every scale.
      UserError: the image has no pixels, or too many scans.
    """
    size, jpeg = image.size, image.format in ("JPEG", "MPO")
    pixels = size[0] * size[1]
    if not pixels:
        raise UserError(f"{name}: the image has no pixels")
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
        raise ImageTooLargeError(
            f"{name}: decoding {size[0]} x {size[1]} pixels of {image.format} takes "
            f"{needed / 2**20:,.0f} MiB, over {MAX_DECODE_BYTES // 2**20} MiB: save it smaller or as JPEG"
        )
    if draft > 1:
        image.draft(None, (max(size[0] // draft, 1), max(size[1] // draft, 1)))
    return Plan(image, shrink, size, needed)


def check_pixels(name: str, size: tuple[int, int], limit: int) -> None:
    """Checks the number of pixels of an image of this width and height.

    Raises:
      ImageTooLargeError: it exceeds the limit.
    """
    if size[0] * size[1] > limit:
        raise ImageTooLargeError(
            f"{name}: the image is too large ({size[0]} x {size[1]}): at most {limit:,} pixels"
        )


def damage(name: str, error: Exception) -> UserError:
    """Returns the error for an image whose decoder raised `error`."""
    return UserError(f"{name}: damaged or truncated image ({_one_line(error)}): replace or remove it")


def _scans(image: Image.Image, data: bytes, jpeg: bool) -> int:
    if jpeg:
        scans = count_scans(data)
        return max(scans, 2) if "progressive" in image.info else scans
    if isinstance(image, TiffImageFile) and "jpeg" in str(image.info.get("compression", "")):
        # Each strip or tile is a JPEG of its own.
        strips = max(len(image.tag_v2.get(273) or image.tag_v2.get(324) or ()), 1)
        return -(-data.count(b"\xff\xda") // strips)
    return 1


def _check_webp(data: bytes, name: str) -> None:
    """Checks the size before Pillow opens a WebP file, which already allocates memory for it."""
    start, kind = data[:30].ljust(30, b"\0"), data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(start[i : i + 3], "little") + 1 for i in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(start[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    check_pixels(name, (width, height), MAX_PIXELS)


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:120]
