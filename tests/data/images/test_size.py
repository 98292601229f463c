"""The size of an image from its header: EXIF orientation, formats, damage."""

import numpy as np
import pytest
from PIL import Image

from tests.pictures import encoded
from tpr_jax.data.images.read import read_image
from tpr_jax.data.images.size import upright_size


def draw(path, form, size=(60, 40), **settings):
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path, form, **settings)
    return path


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "TGA"])
def test_every_format(tmp_path, form):
    assert upright_size(draw(tmp_path / "a.bin", form)) == (60, 40)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = draw(tmp_path / "a.bin", form, exif=exif)
    height, width, _ = read_image(path).shape
    assert upright_size(path) == (width, height) == ((40, 60) if orientation > 4 else (60, 40))


def test_does_not_decode(tmp_path):
    """The pixels are cut off."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    for form in ("JPEG", "PNG"):
        data = encoded(pixels, form)
        (tmp_path / "a.bin").write_bytes(data[: len(data) // 2])
        assert upright_size(tmp_path / "a.bin") == (200, 300)


def test_files_without_a_size(tmp_path):
    (tmp_path / "text").write_text("no image")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert [upright_size(tmp_path / name) for name in ("text", "empty", "cut", "none", ".")] == [None] * 5
