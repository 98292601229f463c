"""Writes scalars for TensorBoard, without its packages: an event file is a list of small framed messages.

The caller's own thread writes them, so that a full disk raises an ordinary OSError; the usual writers leave
files to threads that die with tracebacks of their own. Format: TensorFlow's `record_writer.h` (the framing,
with masked CRC-32C sums) and `event.proto` / `summary.proto` (the messages, encoded as Protocol Buffers).
"""

import os
import socket
import struct
import time
from pathlib import Path
from typing import BinaryIO


def open_events(folder: Path) -> BinaryIO:
    """Opens a new event file in `folder`, named so that TensorBoard finds it and orders it by time."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
    file = (folder / name).open("wb")
    file.write(frame(_double(1, now) + _bytes(3, b"brain.Event:2")))
    file.flush()
    return file


def write_scalars(file: BinaryIO, step: int, scalars: dict[str, float]) -> None:
    """Appends one event with a value for each tag, and flushes it."""
    values = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, x)) for tag, x in scalars.items())
    file.write(frame(_double(1, time.time()) + _integer(2, step) + _bytes(5, values)))
    file.flush()


def frame(message: bytes) -> bytes:
    """Returns a message framed by its length and the masked sums of both."""
    length = struct.pack("<Q", len(message))
    return length + _masked_sum(length) + message + _masked_sum(message)


def crc32c(data: bytes) -> int:
    """Computes CRC-32C (Castagnoli), a byte at a time; RFC 3720, appendix B.4."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = [_table_entry(byte) for byte in range(256)]


def _masked_sum(data: bytes) -> bytes:
    value = crc32c(data)
    rotated = ((value >> 15) | (value << 17)) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
