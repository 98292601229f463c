"""Checks the content of an image file before decoding it: for excessive work, and for harmless damage."""

import re
import struct
import zlib

from tpr_jax.errors import UserError

# libjpeg writes progressive JPEGs with 10 scans, and no program writes more than a few dozen. Each scan
# passes over the whole image, so a file of a few hundred kB with thousands of scans takes minutes to decode.
MAX_SCANS = 100
# Scans times pixels, such as 200 megapixels in 10 scans: about ten seconds on one core.
MAX_SCANNED_PIXELS = 2**31

# A marker that ends entropy-coded data, unlike a stuffed FF00, a restart marker (D0 to D7) or a fill byte.
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Ancillary chunks to keep: transparency, and the camera's orientation.
_KEPT = (b"tRNS", b"eXIf")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_KEPT_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
_MAX_TEXT = 2**16  # bytes of a text chunk that may hold the orientation


class DamagedPngError(ValueError):
    """A PNG whose pixels or header are damaged."""


def count_scans(data: bytes) -> int:
    """Counts the scans (SOS markers) of the first image of a JPEG file, up to its end (EOI).

    Skips segments by their length, so that a thumbnail in EXIF data does not count. In an ambiguous damaged
    file, counts what a decoder might find. Stops at `MAX_SCANS` + 1.
    """
    position, scans = 0, 0
    while scans <= MAX_SCANS and (marker := _MARKER.search(data, position)):
        code, position = marker[1][0], marker.end()
        if code == _EOI:
            break
        if code < 0xC0 or code == _SOI:  # not a segment: decoders skip it
            continue
        scans += code == _SOS
        position += max(int.from_bytes(data[position : position + 2], "big"), 2)
    return scans


def check_scans(name: str, scans: int, pixels: int) -> None:
    """Checks how long an image with this many scans and pixels takes to decode.

    Raises:
      UserError: it takes too long.
    """
    if scans > MAX_SCANS:
        raise UserError(
            f"{name}: has more than {MAX_SCANS} scans, which would take minutes to decode: save it again"
        )
    if scans * pixels > MAX_SCANNED_PIXELS:
        raise UserError(
            f"{name}: {scans} scans of {pixels:,} pixels would take too long to decode: save it without "
            "progressive scans, or smaller"
        )


def pixels_only(data: bytes) -> bytes:
    """Removes the chunks of a PNG that its first image does not need: texts, color profiles, animation.

    Such a chunk may have any size or be damaged, and Pillow rejects the whole image for a text of more than a
    megabyte or a wrong checksum. A file that needs no change, or is not a PNG, is returned unchanged.

    Raises:
      DamagedPngError: a critical chunk has a wrong checksum, or the pixels are truncated.
    """
    if not data.startswith(_SIGNATURE):
        return data
    view, start = memoryview(data), len(_SIGNATURE)
    kept: list[bytes | memoryview] = [_SIGNATURE]
    kept_until = start  # the chunks from `kept_until` to `start` are still to be kept
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end, is_critical = start + 12 + length, not kind[0] & 0x20
        if end > len(data):
            if kind == b"IDAT":
                raise DamagedPngError("truncated within its pixels")
            break
        is_needed = is_critical or _is_needed(kind, view[start + 8 : end - 4])
        checksum = struct.unpack_from(">I", data, end - 4)[0]
        keep = is_needed and zlib.crc32(view[start + 4 : end - 4]) == checksum
        if is_critical and not keep:
            raise DamagedPngError(f"wrong checksum of its chunk {kind.decode('latin-1')!r}")
        if not keep:
            kept.append(view[kept_until:start])
            kept_until = end
        start = end
        if kind == b"IEND":
            break
    if start == len(data) and len(kept) == 1:
        return data
    return b"".join([*kept, view[kept_until:start]])


def _is_needed(kind: bytes, content: memoryview) -> bool:
    """Returns whether an ancillary chunk can change how the image is shown."""
    if kind in _TEXTS:
        return len(content) <= _MAX_TEXT and any(content[: len(start)] == start for start in _KEPT_TEXTS)
    return kind in _KEPT
