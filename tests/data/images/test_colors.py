"""Images of every color mode, depth and transparency become RGB with 8 bits."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.pictures import encoded, png, smooth
from tpr_jax.data.images.read import read_image
from tpr_jax.errors import UserError


@pytest.fixture
def picture():
    return smooth()


def test_cmyk_is_converted_and_not_inverted(picture):
    cmyk = Image.fromarray(picture).convert("CMYK")
    exact = read_image(encoded(cmyk, "TIFF"))
    np.testing.assert_allclose(exact.astype(int), picture, atol=2)
    # In JPEG, Adobe's marker says that the inks are stored inverted.
    for data in (encoded(cmyk, "JPEG", quality=95), encoded(cmyk, "JPEG", quality=95, progressive=True)):
        assert b"Adobe" in data
        assert np.abs(read_image(data).astype(int) - picture).mean() < 4


def test_sixteen_bit_gray_is_scaled_not_clipped(picture):
    gray8 = picture[..., 1]
    gray16 = gray8.astype(np.uint16) * 257
    expected = np.repeat(gray8[..., None], 3, -1)
    for data in (encoded(gray16, "PNG"), encoded(gray16, "TIFF")):
        np.testing.assert_array_equal(read_image(data), expected)
    np.testing.assert_array_equal(read_image(gray16), expected)
    np.testing.assert_array_equal(read_image(Image.fromarray(gray16)), expected)
    # Pillow holds a 16-bit PGM in 32-bit integers.
    pgm = b"P5 20 48 65535\n" + gray16.astype(">u2").tobytes()
    np.testing.assert_array_equal(read_image(pgm), expected)
    # In between two 8-bit levels: rounded.
    between = np.array([[0, 128, 129, 65535 - 128, 65535 - 129]], np.uint16)
    assert read_image(between)[0, :, 0].tolist() == [0, 0, 1, 255, 254]


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (6, 4), (4, 2), (0, 1)])
def test_sixteen_bit_png_of_every_kind(picture, color, channels):
    four = np.concatenate([picture, picture[::-1, :, :1]], -1)
    eight = four[..., [0, 3]] if channels == 2 else four[..., :channels]
    sixteen = (eight.astype(np.uint16) * 257).astype(">u2")
    wide = png(20, 48, 16, color, [row.tobytes() for row in sixteen])
    narrow = png(20, 48, 8, color, [row.tobytes() for row in eight])
    np.testing.assert_allclose(read_image(wide).astype(int), read_image(narrow), atol=1)


def test_rejects_gray_values_without_a_known_white():
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    expected = np.rint(ramp * 255)
    np.testing.assert_array_equal(read_image(encoded(ramp, "TIFF"))[..., 0], expected)
    for bad in (ramp * 255, ramp - 0.5, ramp * np.nan, (ramp * 1e6).astype(np.int32)):
        with pytest.raises(UserError, match="outside 0 to"):
            read_image(encoded(bad, "TIFF"))


def test_composites_transparency_on_white(picture):
    alpha = np.zeros((48, 20), np.uint8)
    alpha[10:20], alpha[20:] = 128, 255
    expected = np.rint(picture * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255))
    rgba = np.concatenate([picture, alpha[..., None]], -1)
    for source in (encoded(rgba, "PNG"), rgba, Image.fromarray(rgba), encoded(rgba, "TIFF")):
        np.testing.assert_allclose(read_image(source).astype(int), expected, atol=1)


def test_gray_with_alpha(picture):
    gray_alpha = np.stack([picture[..., 1], np.full((48, 20), 102, np.uint8)], -1)
    expected = np.rint(picture[..., 1:2] * 0.4 + 255 * 0.6).repeat(3, -1)
    np.testing.assert_allclose(
        read_image(encoded(Image.fromarray(gray_alpha, "LA"), "PNG")), expected, atol=1
    )


def test_palette_with_and_without_transparency():
    indices = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    indices.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    colors = [[10, 20, 30], [200, 0, 0], [0, 0, 200]]
    assert read_image(encoded(indices, "PNG"))[0].tolist() == colors
    assert read_image(encoded(indices, "GIF"))[0].tolist() == colors
    for kind in ("PNG", "GIF"):
        transparent = read_image(encoded(indices, kind, transparency=1))
        assert transparent[0].tolist() == [colors[0], [255, 255, 255], colors[2]]


def test_one_transparent_color_in_gray_and_rgb():
    gray = png(3, 1, 8, 0, [bytes([7, 8, 9])], (b"tRNS", struct.pack(">H", 8)))
    assert read_image(gray)[0, :, 0].tolist() == [7, 255, 9]
    rgb = png(2, 1, 8, 2, [bytes([1, 2, 3, 4, 5, 6])], (b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    assert read_image(rgb)[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_black_and_white():
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert read_image(encoded(bits, "PNG"))[..., 2].tolist() == [[0, 255], [255, 0]]


def test_lab(picture):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(picture), *profiles, outputMode="LAB")
    result = read_image(encoded(lab, "TIFF"))
    assert np.abs(result.astype(int) - picture).mean() < 4


def test_gray_arrays(picture):
    expected = np.repeat(picture[..., :1], 3, -1)
    np.testing.assert_array_equal(read_image(picture[..., 0]), expected)
    np.testing.assert_array_equal(read_image(picture[..., :1]), expected)


def test_the_transparent_value_of_sixteen_bit_gray_becomes_white():
    gray = Image.fromarray(np.array([[30000, 30001, 257]], np.uint16))
    image = read_image(encoded(gray, "PNG", transparency=30000))
    np.testing.assert_array_equal(image[..., 0], [[255, 117, 1]])
