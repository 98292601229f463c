"""What is looked for in a picture's bytes before a decoder sees them: endless work, and harmless damage."""

import re
import struct
import zlib

from tpr_jax.errors import UserError

# libjpeg writes progressive JPEGs of 10 scans, and nobody writes more than some dozens. Each passes over the
# whole picture, so that a file of a few hundred kB with thousands of them takes minutes to decode.
MAX_SCANS = 100
# Scans times pixels: 200 megapixels in 10 scans; some ten seconds of one core.
MAX_SCANNED_PIXELS = 2**31

# A marker that ends entropy-coded data: not a stuffed FF00, no restart (D0 to D7), no fill byte.
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that are not needed for the pixels, and are kept all the same: transparency and the camera's turn.
_KEPT = (b"tRNS", b"eXIf")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_KEPT_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
_MAX_TEXT = 2**16  # bytes of a text chunk that may say how the camera was turned


class DamagedPng(ValueError):
    """A PNG whose pixels or header cannot be what was written."""


def count_scans(data: bytes) -> int:
    """Counts the scans (SOS markers) of the first picture of a JPEG file, up to its end (EOI).

    Segments are passed over by their length, so that a thumbnail within EXIF data does not count. Where a
    damaged file leaves a choice, it counts what a decoder might find. At most `MAX_SCANS` + 1 are counted.
    """
    at, scans = 0, 0
    while scans <= MAX_SCANS and (marker := _MARKER.search(data, at)):
        code, at = marker[1][0], marker.end()
        if code == _EOI:
            break
        if code < 0xC0 or code == _SOI:  # not a segment: what decoders skip
            continue
        scans += code == _SOS
        at += max(int.from_bytes(data[at : at + 2], "big"), 2)
    return scans


def check_scans(name: str, scans: int, pixels: int) -> None:
    """Raises UserError where a picture of so many scans and pixels would take too long to decode."""
    if scans > MAX_SCANS:
        raise UserError(
            f"{name}: has more than {MAX_SCANS} scans, which would take minutes to decode: save it anew"
        )
    if scans * pixels > MAX_SCANNED_PIXELS:
        raise UserError(
            f"{name}: {scans} scans of {pixels:,} pixels would take too long to decode: save it without "
            "progressive scans, or smaller"
        )


def pixels_only(data: bytes) -> bytes:
    """A PNG without the chunks that its first picture does not need: texts, color profiles, animation.

    Such a chunk may be of any size, and damaged: Pillow refuses the whole picture for a text of more than a
    megabyte or for a wrong checksum. Files that need no change, or are no PNG, come back as they are.

    Raises:
      DamagedPng: a critical chunk has a wrong checksum, or the pixels are cut off.
    """
    if not data.startswith(_SIGNATURE):
        return data
    kept, at, begun, view = [_SIGNATURE], len(_SIGNATURE), len(_SIGNATURE), memoryview(data)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end, critical = at + 12 + length, not kind[0] & 0x20
        if end > len(data):
            if kind == b"IDAT":
                raise DamagedPng("cut off within its pixels")
            break
        wanted = critical or _may_matter(kind, view[at + 8 : end - 4])
        sound = wanted and zlib.crc32(view[at + 4 : end - 4]) == struct.unpack_from(">I", data, end - 4)[0]
        if critical and not sound:
            raise DamagedPng(f"wrong checksum of its chunk {kind.decode('latin-1')!r}")
        if not sound:
            kept.append(view[begun:at])
            begun = end
        at = end
        if kind == b"IEND":
            break
    if at == len(data) and len(kept) == 1:
        return data
    return b"".join([*kept, view[begun:at]])


def _may_matter(kind: bytes, content: memoryview) -> bool:
    if kind in _TEXTS:
        return len(content) <= _MAX_TEXT and any(content[: len(start)] == start for start in _KEPT_TEXTS)
    return kind in _KEPT
