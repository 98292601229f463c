import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from tpr_jax.data import images
from tpr_jax.data.images import read_image, resize
from tpr_jax.errors import UserError


def encoded(image, kind, **settings):
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **settings)
    return file.getvalue()


@pytest.fixture
def picture():
    """Smooth enough for JPEG, with a different look in every corner."""
    y, x = np.mgrid[0:48, 0:20].astype(np.float64)
    return np.stack([y * 5, x * 12, 255 - y * 2 - x * 5], -1).round().astype(np.uint8)


def png(width, height, bits, colour, rows, *chunks):
    """A PNG written by hand from the specification: Pillow writes none of 16 bits a colour."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = chunk(b"IHDR", header) + b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", data)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


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


def test_cmyk_is_converted_and_not_inverted(picture):
    cmyk = Image.fromarray(picture).convert("CMYK")
    exact = read_image(encoded(cmyk, "TIFF"))
    np.testing.assert_allclose(exact.astype(int), picture, atol=2)
    # In JPEG, Adobe's marker says that the inks are stored inverted.
    for data in (encoded(cmyk, "JPEG", quality=95), encoded(cmyk, "JPEG", quality=95, progressive=True)):
        assert b"Adobe" in data
        assert np.abs(read_image(data).astype(int) - picture).mean() < 4


def test_sixteen_bit_grey_is_scaled_not_clipped(picture):
    grey8 = picture[..., 1]
    grey16 = grey8.astype(np.uint16) * 257
    expected = np.repeat(grey8[..., None], 3, -1)
    for data in (encoded(grey16, "PNG"), encoded(grey16, "TIFF")):
        np.testing.assert_array_equal(read_image(data), expected)
    np.testing.assert_array_equal(read_image(grey16), expected)
    np.testing.assert_array_equal(read_image(Image.fromarray(grey16)), expected)
    # Pillow holds a 16-bit PGM in 32-bit integers.
    pgm = b"P5 20 48 65535\n" + grey16.astype(">u2").tobytes()
    np.testing.assert_array_equal(read_image(pgm), expected)
    # In between two 8-bit levels: rounded.
    between = np.array([[0, 128, 129, 65535 - 128, 65535 - 129]], np.uint16)
    assert read_image(between)[0, :, 0].tolist() == [0, 0, 1, 255, 254]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2), (0, 1)])
def test_sixteen_bit_png_of_every_kind(picture, colour, channels):
    four = np.concatenate([picture, picture[::-1, :, :1]], -1)
    eight = four[..., [0, 3]] if channels == 2 else four[..., :channels]
    sixteen = (eight.astype(np.uint16) * 257).astype(">u2")
    wide = png(20, 48, 16, colour, [row.tobytes() for row in sixteen])
    narrow = png(20, 48, 8, colour, [row.tobytes() for row in eight])
    np.testing.assert_allclose(read_image(wide).astype(int), read_image(narrow), atol=1)


def test_integers_and_floats_without_a_known_white():
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    expected = np.rint(ramp * 255)
    np.testing.assert_array_equal(read_image(encoded(ramp, "TIFF"))[..., 0], expected)
    for bad in (ramp * 255, ramp - 0.5, ramp * np.nan, (ramp * 1e6).astype(np.int32)):
        with pytest.raises(UserError, match="outside 0 to"):
            read_image(encoded(bad, "TIFF"))


def test_transparency_is_laid_on_white(picture):
    alpha = np.zeros((48, 20), np.uint8)
    alpha[10:20], alpha[20:] = 128, 255
    expected = np.rint(picture * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255))
    rgba = np.concatenate([picture, alpha[..., None]], -1)
    for source in (encoded(rgba, "PNG"), rgba, Image.fromarray(rgba), encoded(rgba, "TIFF")):
        np.testing.assert_allclose(read_image(source).astype(int), expected, atol=1)


def test_grey_with_alpha(picture):
    grey_alpha = np.stack([picture[..., 1], np.full((48, 20), 102, np.uint8)], -1)
    expected = np.rint(picture[..., 1:2] * 0.4 + 255 * 0.6).repeat(3, -1)
    np.testing.assert_allclose(
        read_image(encoded(Image.fromarray(grey_alpha, "LA"), "PNG")), expected, atol=1
    )


def test_palette_with_and_without_transparency():
    indices = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    indices.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    colours = [[10, 20, 30], [200, 0, 0], [0, 0, 200]]
    assert read_image(encoded(indices, "PNG"))[0].tolist() == colours
    assert read_image(encoded(indices, "GIF"))[0].tolist() == colours
    for kind in ("PNG", "GIF"):
        transparent = read_image(encoded(indices, kind, transparency=1))
        assert transparent[0].tolist() == [colours[0], [255, 255, 255], colours[2]]


def test_one_transparent_colour_in_grey_and_rgb():
    grey = png(3, 1, 8, 0, [bytes([7, 8, 9])], (b"tRNS", struct.pack(">H", 8)))
    assert read_image(grey)[0, :, 0].tolist() == [7, 255, 9]
    rgb = png(2, 1, 8, 2, [bytes([1, 2, 3, 4, 5, 6])], (b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    assert read_image(rgb)[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_black_and_white():
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert read_image(encoded(bits, "PNG"))[..., 2].tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_undone(picture, kind):
    # What a camera stores for each orientation (EXIF 2.3, table 3), so that the viewer sees `picture`.
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


def test_broken_exif_does_not_spoil_the_picture(picture):
    data = encoded(picture, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 30)
    assert read_image(data).shape == picture.shape


def test_one_pixel():
    pixel = np.array([[[1, 2, 3]]], np.uint8)
    np.testing.assert_array_equal(read_image(encoded(pixel, "PNG")), pixel)
    np.testing.assert_array_equal(resize(pixel, (8, 4)), np.broadcast_to(pixel, (8, 4, 3)))


def test_lab(picture):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(picture), *profiles, outputMode="LAB")
    result = read_image(encoded(lab, "TIFF"))
    assert np.abs(result.astype(int) - picture).mean() < 4


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
def test_a_cut_off_file_is_an_error_or_whole_wherever_it_is_cut(picture, kind, settings):
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
        "text.jpg": "not a picture",
        "folder.jpg": "is a folder",
        "cut.jpg": "cut-off",
        "damaged.png": "damaged",
        "missing.jpg": "no such picture",
        "locked.jpg": "cannot be read",
    }.items():
        with pytest.raises(UserError) as error:
            read_image(tmp_path / name)
        message = str(error.value)
        assert message.startswith(str(tmp_path / name)) and told in message and "\n" not in message
    with pytest.raises(UserError, match="the picture of 3 bytes: not a picture"):
        read_image(b"abc")
    with pytest.raises(UserError, match="not NoneType"):
        read_image(None)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_000, 30_000])  # Pillow itself warns of the first and refuses the second
def test_decompression_bomb(side, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, 1, 0, [b""]))
    with pytest.raises(UserError, match="bomb.png.* too large"):
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
def test_arrays_that_are_no_picture(array):
    with pytest.raises(UserError, match="an array as a picture must be"):
        read_image(array)


def test_grey_arrays(picture):
    expected = np.repeat(picture[..., :1], 3, -1)
    np.testing.assert_array_equal(read_image(picture[..., 0]), expected)
    np.testing.assert_array_equal(read_image(picture[..., :1]), expected)


def triangle_weights(source, target):
    """Weights [target, source] of an antialiased bilinear resize, from the triangle's definition."""
    scale = source / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs((np.arange(source) + 0.5)[None] - centres[:, None]) / support
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


def test_limit_is_pillows_own():
    assert images.MAX_PIXELS == Image.MAX_IMAGE_PIXELS
