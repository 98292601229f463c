"""Reading images from every source and format, upright, and errors for unreadable ones."""

import numpy as np
import pytest
from PIL import Image

from tests.pictures import encoded, png, smooth
from tpr_jax.data.images import read as images
from tpr_jax.data.images.read import Crop, read_image, read_resized, resize
from tpr_jax.errors import UserError


@pytest.fixture
def picture():
    return smooth()


def test_plain_files_from_path_bytes_pil_and_array(picture, tmp_path):
    data = encoded(picture, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), Image.fromarray(picture), picture):
        result = read_image(source)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, picture)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_other_formats(picture, kind):
    result = read_image(encoded(picture, kind)).astype(int)
    assert np.abs(result - picture).mean() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_applies_the_exif_orientation(picture, kind):
    # The pixels that a camera stores for each orientation (EXIF 2.3, table 3) of `picture`.
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.swapaxes(0, 1),
        6: np.rot90(picture, 1),
        7: picture[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(picture, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        settings = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
        result = read_image(encoded(np.ascontiguousarray(pixels), kind, exif=exif, **settings))
        assert result.shape == picture.shape, orientation
        assert np.abs(result.astype(int) - picture).mean() < 6, orientation


def test_applies_an_orientation_given_only_in_xmp(picture):
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description'
        b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/></rdf:RDF></x:xmpmeta>'
    )
    upside_down = np.ascontiguousarray(picture[::-1, ::-1])
    result = read_image(encoded(upside_down, "JPEG", xmp=xmp, quality=95)).astype(int)
    assert np.abs(result - picture).mean() < 6


def test_ignores_broken_exif_data(picture):
    data = encoded(picture, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 30)
    assert read_image(data).shape == picture.shape


def test_one_pixel():
    pixel = np.array([[[1, 2, 3]]], np.uint8)
    np.testing.assert_array_equal(read_image(encoded(pixel, "PNG")), pixel)
    np.testing.assert_array_equal(resize(pixel, (8, 4)), np.broadcast_to(pixel, (8, 4, 3)))


@pytest.mark.filterwarnings("ignore:.*(Corrupt EXIF|Truncated):UserWarning")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_truncated_files_are_errors_or_complete(picture, kind, settings):
    noisy = picture + np.random.default_rng(0).integers(0, 20, picture.shape, np.uint8)
    data = encoded(noisy, kind, **settings)
    whole, errors = read_image(data), 0
    for length in range(len(data)):
        try:
            np.testing.assert_array_equal(read_image(data[:length]), whole)
        except UserError:
            errors += 1
    assert errors > 0.9 * len(data)


def test_unreadable_files_are_named(tmp_path, picture):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "folder.jpg").mkdir()
    jpeg = encoded(picture, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(jpeg[:-20])
    damaged = bytearray(encoded(picture, "PNG"))
    damaged[60] ^= 0xFF
    (tmp_path / "damaged.png").write_bytes(damaged)
    (tmp_path / "locked.jpg").symlink_to("locked.jpg")
    for name, told in {
        "empty.jpg": "0 bytes",
        "text.jpg": "not an image",
        "folder.jpg": "is a folder",
        "cut.jpg": "truncated",
        "damaged.png": "damaged",
        "missing.jpg": "no such image",
        "locked.jpg": "cannot be read",
    }.items():
        with pytest.raises(UserError) as error:
            read_image(tmp_path / name)
        message = str(error.value)
        assert message.startswith(str(tmp_path / name)) and told in message and "\n" not in message
    with pytest.raises(UserError, match="the image of 3 bytes: not an image"):
        read_image(b"abc")
    with pytest.raises(UserError, match="not NoneType"):
        read_image(None)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_000, 30_000])  # Pillow itself warns of the first and refuses the second
def test_decompression_bomb(side, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, 1, 0, [b""]))
    with pytest.raises(UserError, match=r"bomb.png.* too large"):
        read_image(path)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_rejects_arrays_that_are_not_images(array):
    with pytest.raises(UserError, match="an image array must be"):
        read_image(array)


def triangle_weights(source, target):
    """Computes the weights [target, source] of an antialiased bilinear resize by definition."""
    scale = source / target
    support = max(scale, 1.0)
    centers = (np.arange(target) + 0.5) * scale
    distance = np.abs((np.arange(source) + 0.5)[None] - centers[:, None]) / support
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(12, 7), (96, 33), (20, 40), (48, 5)])
def test_resize_is_bilinear_with_antialias(size):
    image = np.random.default_rng(0).integers(0, 256, (48, 20, 3), np.uint8)
    rows, columns = triangle_weights(48, size[0]), triangle_weights(20, size[1])
    expected = np.einsum("yh,xw,hwc->yxc", rows, columns, image)
    result = resize(image, size)
    assert result.dtype == np.uint8 and result.shape == (*size, 3)
    np.testing.assert_allclose(result, expected, atol=1.01)  # Pillow rounds between the two passes


def test_resize_of_a_photo_of_a_person_is_pillows_to_a_level():
    """Compares 260 x 100 to 384 x 128 with the definition: the mean difference is below 1/255."""
    image = np.random.default_rng(1).integers(0, 256, (260, 100, 3), np.uint8)
    rows, columns = triangle_weights(260, 384), triangle_weights(100, 128)
    expected = np.einsum("yh,xw,hwc->yxc", rows, columns, image, optimize=True)
    assert np.abs(resize(image, (384, 128)) - expected).mean() < 0.5
    by_pillow = Image.fromarray(image).resize((128, 384), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize(image, (384, 128)), by_pillow)


def test_read_resized_equals_read_and_resize(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    gray = (picture[..., 0].astype(np.uint16) * 257).astype(np.uint16)
    transparent = np.concatenate([picture, picture[::-1, :, :1]], -1)
    sources = [
        encoded(picture, "JPEG"),
        encoded(picture, "JPEG", exif=exif),
        encoded(Image.fromarray(picture).convert("CMYK"), "JPEG"),
        encoded(Image.fromarray(picture).convert("L"), "JPEG"),
        encoded(Image.fromarray(picture).convert("P"), "PNG"),
        encoded(gray, "PNG"),
        encoded(transparent, "PNG"),
        Image.fromarray(transparent),
        picture,
        gray,
    ]
    path = tmp_path / "a.jpg"
    path.write_bytes(sources[1])
    sources += [path, str(path), Crop(str(path), 2, 5, 11, 30), Crop(str(path), -3, 10, 90, 90)]
    for source in sources:
        for size in ((48, 20), (96, 32), (12, 7)):
            result = read_resized(source, size)
            assert result.dtype == np.uint8 and result.shape == (*size, 3)
            np.testing.assert_array_equal(result, resize(read_image(source), size))
    path.write_bytes(sources[0][:-20])
    with pytest.raises(UserError, match=r"a.jpg: damaged or truncated"):
        read_resized(path, (8, 4))


def test_limit_is_pillows_own():
    assert images.MAX_PIXELS == Image.MAX_IMAGE_PIXELS
