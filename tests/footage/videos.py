"""Small videos for tests: rendered people who walk over a gray yard, and edits of the files' headers."""

import struct
from pathlib import Path

import numpy as np
import pytest

SIZE = (320, 240)


def open_cv():
    return pytest.importorskip("cv2", reason="OpenCV is not installed: requirements-footage.txt")


def people(count: int) -> list[np.ndarray]:
    """Returns rendered people, RGB [96, 32, 3]."""
    cv2 = open_cv()
    from tests.conftest import ROOT

    paths = sorted((ROOT / "tpr_jax/data/mini_pedes/bundled").rglob("*.jpg"))
    if not paths:
        rng = np.random.default_rng(0)
        return [rng.integers(0, 255, (96, 32, 3), np.uint8) for _ in range(count)]
    chosen = [paths[i * len(paths) // count] for i in range(count)]
    return [cv2.cvtColor(cv2.resize(cv2.imread(str(p)), (32, 96)), cv2.COLOR_BGR2RGB) for p in chosen]


def box_at(person: int, frame: int) -> tuple[int, int, int, int]:
    """Returns where a person is in a frame: person 0 walks to the right, person 1 to the left."""
    x = 20 + 4 * frame if person == 0 else 270 - 4 * frame
    return x, 40 + 90 * person, 32, 96


def frame_with_people(frame: int, figures: list[np.ndarray]) -> np.ndarray:
    """Returns RGB pixels whose upper left corner shows the number of the frame as its gray level."""
    pixels = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
    for person, figure in enumerate(figures):
        x, y, w, h = box_at(person, frame)
        pixels[y : y + h, x : x + w] = figure
    pixels[:16, :16] = 4 * frame
    return pixels


def number_shown(pixels: np.ndarray) -> int:
    return round(float(pixels[2:14, 2:14].mean()) / 4)


def write_video(path: Path, frames: int = 40, rate: float = 10.0, figures: int = 2) -> Path:
    cv2 = open_cv()
    code = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, SIZE)
    assert writer.isOpened()
    drawn = people(figures) if figures else []
    for frame in range(frames):
        writer.write(cv2.cvtColor(frame_with_people(frame, drawn), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def mot_lines(frames: int, figures: int = 2, tracks: bool = False) -> str:
    """Returns the boxes of all frames as MOTChallenge's text."""
    lines = []
    for frame in range(frames):
        for person in range(figures):
            x, y, w, h = box_at(person, frame)
            lines.append(f"{frame + 1},{person + 1 if tracks else -1},{x + 1},{y + 1},{w},{h},0.9,-1,-1,-1")
    return "\n".join(lines) + "\n"


def rotate(path: Path) -> None:
    """Sets the display matrix of an .mp4 to a quarter turn clockwise."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    assert data[start : start + 4] == struct.pack(">i", 0x10000)
    data[start : start + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, SIZE[1] << 16, 0, 0x40000000)
    path.write_bytes(data)


def vary_rate(path: Path, first: int, factor: int) -> None:
    """Makes all frames of an .mp4 but the `first` ones `factor` times as long."""
    data = path.read_bytes().replace(b"edts", b"free")  # its edit list would end the video where it did
    at = data.index(b"stts") - 4
    size, _, _, entries, count, delta = struct.unpack(">I4sIIII", data[at : at + 24])
    assert (size, entries) == (24, 1)
    rows = struct.pack(">IIII", first, delta, count - first, factor * delta)
    data = data[:at] + struct.pack(">I4sII", 32, b"stts", 0, 2) + rows + data[at + 24 :]
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        at = data.index(name) - 4
        (size,) = struct.unpack(">I", data[at : at + 4])
        data = data[:at] + struct.pack(">I", size + 8) + data[at + 4 :]
    path.write_bytes(data)


def set_recorded(path: Path, seconds: int) -> Path:
    """Writes into an .mp4 that it was recorded so many seconds after 1970 (UTC)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"mvhd") + 8
    assert data[start - 4] == 0  # the version with 32 bits
    data[start : start + 4] = struct.pack(">I", seconds + 2_082_844_800)  # it counts from 1904
    path.write_bytes(data)
    return path
