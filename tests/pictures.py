"""Image files for the tests of reading them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image, kind: str, **settings) -> bytes:
    """Encodes an array or PIL image in this format."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **settings)
    return file.getvalue()


def smooth() -> np.ndarray:
    """Makes an image that is smooth enough for JPEG and different in every corner."""
    y, x = np.mgrid[0:48, 0:20].astype(np.float64)
    return np.stack([y * 5, x * 12, 255 - y * 2 - x * 5], -1).round().astype(np.uint8)


def png(width: int, height: int, bits: int, color: int, rows: list[bytes], *chunks) -> bytes:
    """Writes a PNG by the specification, because Pillow cannot write 16 bits per color."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = chunk(b"IHDR", header) + b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", data)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")
