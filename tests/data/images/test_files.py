"""Irregular files, too large files, and the scale at which large images are decoded."""

import io
import os
import socket
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.pictures import encoded, png, smooth
from tpr_jax.data.check import check_image
from tpr_jax.data.images import files as image_files
from tpr_jax.data.images import read as images
from tpr_jax.data.images.read import Crop, read_crops, read_fitting, read_image, read_resized, resize
from tpr_jax.data.pipeline import decode_all
from tpr_jax.errors import UserError
from tpr_jax.search.index.encode import read_ahead
from tpr_jax.search.index.gallery import Photo


@pytest.fixture
def odd(tmp_path):
    """Creates irregular files; maps their names to descriptions."""
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink("pipe.jpg", tmp_path / "link.jpg")
    os.symlink("/dev/zero", tmp_path / "device.jpg")
    (tmp_path / "folder.jpg").mkdir()
    place = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # a socket's whole path has at most some hundred bytes
    place.bind("socket.jpg")
    os.chdir(here)
    yield {
        "pipe.jpg": "a named pipe",
        "link.jpg": "a named pipe",
        "device.jpg": "a device",
        "folder.jpg": "a folder",
        "socket.jpg": "a socket",
    }
    place.close()


@pytest.mark.timeout(300)
def test_rejects_files_that_are_not_regular(tmp_path, odd):
    for name, what in odd.items():
        path = str(tmp_path / name)
        for read in (
            lambda path=path: read_image(path),
            lambda path=path: read_image(Crop(path, 0, 0, 5, 5)),
            lambda path=path: read_crops(path, [None], (8, 4)),
            lambda path=path: decode_all([path], (8, 4)),
        ):
            with pytest.raises(UserError) as error:
                read()
            assert str(error.value) == f"{path}: is {what}, not an image"
        assert check_image((path, None)) == ("unreadable pictures", f"{path}: is {what}, not an image")
    found = list(read_ahead(tmp_path, [Photo(name) for name in odd], (8, 4)))
    assert {read.photo.path: read.error for read in found} == {
        name: f"is {what}, not an image" for name, what in odd.items()
    }


@pytest.mark.timeout(300)
def test_does_not_wait_for_a_file_that_became_a_pipe(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a.jpg")
    look, looks = image_files.describe_non_regular, []
    monkeypatch.setattr(
        image_files,
        "describe_non_regular",
        lambda mode: looks.append(mode) or ("" if len(looks) == 1 else look(mode)),
    )
    with pytest.raises(UserError, match=r"a\.jpg: is a named pipe"):
        read_image(tmp_path / "a.jpg")


def test_follows_symbolic_links(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(smooth(), "PNG"))
    os.symlink("a.png", tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), smooth())


def test_does_not_read_a_file_that_is_too_large(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(image_files.MAX_DECODE_BYTES + 1)  # takes no room on the disk
    with pytest.raises(UserError, match=r"a\.jpg: the file is too large"):
        read_image(tmp_path / "a.jpg")


def test_rejects_a_path_with_a_nul():
    with pytest.raises(UserError, match="cannot be read"):
        read_image("a\0.jpg")


def halves(height=400, width=600):
    """An image with a dark left, a light right and a bright corner: positions are clear at any scale."""
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[:, width // 2 :] = 200
    pixels[: height // 4, : width // 4] = (255, 0, 0)
    return pixels


@pytest.fixture
def large(monkeypatch):
    """Makes images of more than 60,000 pixels large; `halves` has 240,000."""
    monkeypatch.setattr(image_files, "LARGE_PIXELS", 60_000)
    monkeypatch.setattr(images, "LARGE_PIXELS", 60_000)


def mean_of_squares(pixels, divisor):
    height, width = (length // divisor * divisor for length in pixels.shape[:2])
    parts = pixels[:height, :width].reshape(height // divisor, divisor, width // divisor, divisor, 3)
    return parts.mean((1, 3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize(
    ("limit", "divisor"), [(240_000, 1), (239_999, 2), (60_000, 2), (59_999, 4), (4_000, 8)]
)
def test_decodes_large_images_at_the_largest_allowed_scale(monkeypatch, kind, limit, divisor):
    monkeypatch.setattr(image_files, "LARGE_PIXELS", limit)
    data = encoded(halves(), kind, **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))
    found = read_image(data)
    assert found.shape == (400 // divisor, 600 // divisor, 3)
    assert np.abs(found - mean_of_squares(halves(), divisor)).mean() < 3
    np.testing.assert_array_equal(read_resized(data, (38, 12)), resize(found, (38, 12)))


def test_decodes_ordinary_images_at_full_scale(tmp_path):
    """12 megapixels, decoded as Pillow alone does."""
    small = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    data = encoded(Image.fromarray(small).resize((4000, 3000)), "JPEG")
    assert image_files.LARGE_PIXELS == 25_000_000
    np.testing.assert_array_equal(read_image(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_rotates_large_images(large, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(np.ascontiguousarray(np.rot90(halves(), 1)), kind, exif=exif)
    found = read_image(data)
    assert found.shape == (200, 300, 3) and np.abs(found - mean_of_squares(halves(), 2)).mean() < 4


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_large_images_of_any_mode(large, mode):
    source = Image.fromarray(halves())
    if mode == "I;16":
        source = Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257)
        wanted = np.repeat(np.asarray(Image.fromarray(halves()).convert("L"))[..., None], 3, 2)
    else:
        source = source.convert(mode)
        wanted = np.asarray(source.convert("RGB"))
    if mode in ("RGBA", "LA"):
        source.putalpha(Image.fromarray(np.full((400, 600), 255, np.uint8)))
    found = read_image(encoded(source, "TIFF" if mode == "CMYK" else "PNG"))
    assert found.shape == (200, 300, 3)
    assert np.abs(found - mean_of_squares(wanted, 2)).mean() < 2


def test_large_pil_images_too(large):
    assert read_image(Image.fromarray(halves())).shape == (200, 300, 3)
    assert read_image(halves()).shape == (400, 600, 3)  # arrays are not scaled down


def test_crops_of_large_images_have_full_scale(large, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(halves(), "PNG"))
    np.testing.assert_array_equal(read_image(Crop(str(path), 130, 80, 60, 50)), halves()[80:130, 130:190])
    parts, size = read_crops(path, [(130, 80, 60, 50), None, (700, 0, 5, 5)], (20, 10))
    assert size == (600, 400) and parts[2] is None
    np.testing.assert_array_equal(parts[0], resize(halves()[80:130, 130:190], (20, 10)))
    np.testing.assert_array_equal(parts[1], read_resized(path, (20, 10)))


@pytest.mark.parametrize("orientation", [1, 6])
def test_scales_boxes_if_memory_allows_a_smaller_scale_only(large, monkeypatch, tmp_path, orientation):
    """Boxes are in pixels of the full upright image, whatever the scale of decoding."""
    monkeypatch.setattr(image_files, "MAX_DECODE_BYTES", 600_000)  # 240,000 pixels need 960,000
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = halves() if orientation == 1 else np.ascontiguousarray(np.rot90(halves(), 1))
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(stored, "JPEG", exif=exif, quality=95))
    part = read_image(Crop(str(path), 100, 60, 100, 80))
    assert abs(part.shape[0] - 40) <= 1 and abs(part.shape[1] - 50) <= 1
    wanted = np.asarray(Image.fromarray(halves()[60:140, 100:200]).resize(part.shape[1::-1], Image.BOX))
    assert np.abs(part.astype(int) - wanted).mean() < 8
    assert read_image(Crop(str(path), 599, 399, 1, 1)).shape == (1, 1, 3)
    with pytest.raises(UserError, match="outside of the image of 600 x 400 pixels"):
        read_image(Crop(str(path), 600, 0, 5, 5))


def grown(data: bytes, width: int, height: int) -> bytes:
    """Changes the size in a JPEG's header."""
    data = bytearray(data)
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(("width", "height"), [(12_000, 9_000), (16_320, 12_240)])
def test_phones_of_108_and_200_megapixels(width, height):
    """Pillow's `Image.open` rejects them; here they are only decoded at a fitting scale."""
    data = grown(encoded(smooth(), "JPEG"), width, height)
    with image_files.open_image(data, "a.jpg") as image:
        plan = image_files.plan(image, data, "a.jpg")
        assert plan.size == (width, height) and image.size == (width // 4, height // 4)
        assert plan.bytes == width * height // 16 * 4


def test_decodes_an_image_of_108_megapixels(tmp_path):
    small = Image.fromarray(halves(90, 120))
    path = tmp_path / "a.jpg"
    small.resize((12_000, 9_000), Image.Resampling.NEAREST).save(path, quality=75)
    found = read_resized(path, (90, 120))
    assert np.abs(found.astype(int) - halves(90, 120)).mean() < 4
    assert read_fitting(path, 320).shape == (240, 320, 3)


@pytest.mark.parametrize(
    "data",
    [
        grown(encoded(smooth(), "JPEG"), 65_500, 65_500),
        png(60_000, 50_000, 8, 2, [b""]),
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2,
        b"RIFF\x1a\0\0\0WEBPVP8L\x0a\0\0\0\x2f" + (0x3FFF | 0x3FFF << 14).to_bytes(4, "little") + b"\0" * 9,
        b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + b"\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
        b"P6 50000 50000 255\n",
    ],
)
def test_rejects_giant_sizes_before_decoding(monkeypatch, data):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"too large|takes"):
        read_image(data)


def test_rejects_an_image_that_takes_too_much_memory(monkeypatch):
    """A decoder that cannot reduce needs memory for the whole image."""
    monkeypatch.setattr(image_files, "MAX_DECODE_BYTES", 4_000_000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"a\.webp: decoding 600 x 400 pixels of WEBP takes 4 MiB"):
        images.use_file(encoded(halves(), "WEBP"), "a.webp", np.asarray)
