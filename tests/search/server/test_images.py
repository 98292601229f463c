"""Uploaded images and images for the browser, without a server."""

import dataclasses
import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tpr_jax.errors import UserError
from tpr_jax.search.index.store import FILE_COLUMNS, KEY_COLUMNS, Index
from tpr_jax.search.server import images


def encoded(kind, size=(40, 60), mode="RGB", **how):
    written = io.BytesIO()
    Image.new(mode, size, "red").save(written, kind, **how)
    return written.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_reads_the_formats_of_browsers(kind):
    pixels = images.read_upload(encoded(kind))
    assert pixels.shape == (60, 40, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.mean((0, 1)) - [255, 0, 0]).max() < 4


def test_applies_the_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    assert images.read_upload(encoded("JPEG", exif=exif)).shape == (40, 60, 3)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA", "PPM", "JPEG2000"])
def test_rejects_other_formats(kind):
    with pytest.raises(UserError, match="not an image that can be read"):
        images.read_upload(encoded(kind))


@pytest.mark.parametrize("more", [0, 1])
def test_limits_the_pixels_of_an_upload(monkeypatch, more):
    monkeypatch.setattr(images, "MAX_UPLOAD_PIXELS", 2400 - more)
    if not more:
        assert images.read_upload(encoded("PNG")).shape == (60, 40, 3)
    else:
        with pytest.raises(images.ImageTooLargeError, match=r"\(40 x 60\): at most 2,399"):
            images.read_upload(encoded("PNG"))


def make(folder, path, box=(None,) * 4):
    """Returns an index of the photo as it is now, if it is there."""
    file, stamp = Path(folder, path), (0, 0, bytes(32))
    if file.exists():
        status = file.stat()
        stamp = (status.st_size, status.st_mtime_ns, hashlib.sha256(file.read_bytes()).digest())
    columns = {name: [value] for name, value in zip(KEY_COLUMNS, (path, *box), strict=True)}
    columns |= {name: [value] for name, value in zip(FILE_COLUMNS, stamp, strict=True)}
    return Index(Path(folder), {"photos": str(folder)}, np.zeros((1, 2), np.float16), pa.table(columns))


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_photo_keeps_its_aspect_ratio_and_is_not_enlarged(tmp_path, size):
    Image.new("RGB", (30, 60), "blue").save(tmp_path / "a.png")
    shown = Image.open(io.BytesIO(images.photo_jpeg(make(tmp_path, "a.png"), 0, size)))
    assert shown.format == "JPEG" and shown.size == (30, 60)
    Image.new("RGBA", (2000, 4000), (0, 0, 255, 255)).save(tmp_path / "b.png")
    shown = Image.open(io.BytesIO(images.photo_jpeg(make(tmp_path, "b.png"), 0, size)))
    assert shown.size == {"small": (160, 320), "large": (800, 1600)}[size] and shown.mode == "RGB"


def test_a_box_may_extend_beyond_the_image(tmp_path):
    Image.new("RGB", (30, 60), "blue").save(tmp_path / "a.png")
    shown = images.photo_jpeg(make(tmp_path, "a.png", (20, -5, 50, 15)), 0, "small")
    assert Image.open(io.BytesIO(shown)).size == (10, 10)


def test_rejects_rows_and_photos_that_do_not_exist(tmp_path):
    index = make(tmp_path, "a.png")
    for row in (-1, 1):
        with pytest.raises(IndexError):
            images.photo_jpeg(index, row, "small")
    with pytest.raises(UserError):
        images.photo_jpeg(index, 0, "small")
    elsewhere = dataclasses.replace(index, info={"photos": "/nowhere"})
    with pytest.raises(UserError):
        images.photo_jpeg(elsewhere, 0, "small")


def draw(path, color):
    """Writes a photo, always of the same size in bytes."""
    Image.new("RGB", (30, 60), color).save(path, "BMP")


def set_time(path, mtime_ns):
    os.utime(path, ns=(mtime_ns, mtime_ns))


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("box", [(None,) * 4, (0, 0, 10, 20)])
def test_a_photo_that_was_overwritten_is_not_shown(tmp_path, size, box):
    draw(tmp_path / "a.bmp", "blue")
    set_time(tmp_path / "a.bmp", 10**18)
    index = make(tmp_path, "a.bmp", box)
    shown = images.photo_jpeg(index, 0, size)
    draw(tmp_path / "a.bmp", "red")
    set_time(tmp_path / "a.bmp", 10**18 + 1)
    with pytest.raises(
        images.ChangedPhotoError, match=r"a\.bmp: has changed since it was indexed: index the"
    ):
        images.photo_jpeg(index, 0, size)
    draw(tmp_path / "a.bmp", "blue")  # the indexed content, as from a backup, at another time
    set_time(tmp_path / "a.bmp", 10**18 + 2)
    assert images.photo_jpeg(index, 0, size) == shown


def test_a_photo_that_is_overwritten_while_it_is_read_is_not_shown(tmp_path, monkeypatch):
    draw(tmp_path / "a.bmp", "blue")
    set_time(tmp_path / "a.bmp", 10**18)
    index, read = make(tmp_path, "a.bmp"), images.read_fitting

    def read_late(path, side):
        draw(path, "red")
        set_time(path, 10**18 + 1)
        return read(path, side)

    monkeypatch.setattr(images, "read_fitting", read_late)
    with pytest.raises(images.ChangedPhotoError):
        images.photo_jpeg(index, 0, "large")


def test_a_pipe_in_place_of_a_photo_blocks_nobody(tmp_path):
    draw(tmp_path / "a.bmp", "blue")
    index = make(tmp_path, "a.bmp")
    (tmp_path / "a.bmp").unlink()
    os.mkfifo(tmp_path / "a.bmp")
    with pytest.raises(UserError, match="is not a file"):
        images.photo_jpeg(index, 0, "large")
