"""Uploaded images and images for the browser, without a server."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tpr_jax.errors import UserError
from tpr_jax.search.index.store import Index
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
    columns = {name: [value] for name, value in zip(("path", "x", "y", "w", "h"), (path, *box), strict=True)}
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
