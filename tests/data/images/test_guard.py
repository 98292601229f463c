"""JPEGs with many scans, and PNGs with harmless damage, checked without a decoder."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from tests.pictures import encoded, smooth
from tpr_jax.data.check import check_image
from tpr_jax.data.images.guard import MAX_SCANNED_PIXELS, MAX_SCANS, check_scans, count_scans, pixels_only
from tpr_jax.data.images.read import Crop, read_image, read_resized
from tpr_jax.data.pipeline import decode_all
from tpr_jax.errors import UserError
from tpr_jax.search.index.encode import read_ahead
from tpr_jax.search.index.gallery import Photo
from tpr_jax.search.server.images import read_upload


def parts_of(jpeg: bytes) -> tuple[bytes, list[bytes]]:
    """Splits a JPEG into the part before the first scan and the scans with their tables.

    Reads it byte by byte as ITU T.81, B.1 defines, independently of the code under test.
    """
    at, begun, head, scans = 2, 0, b"", []
    while True:
        assert jpeg[at] == 0xFF
        code, length = jpeg[at + 1], struct.unpack_from(">H", jpeg, at + 2)[0]
        if code == 0xD9:
            return head, scans
        at += 2 + length
        if code == 0xDA:
            while jpeg[at] != 0xFF or jpeg[at + 1] == 0 or 0xD0 <= jpeg[at + 1] <= 0xD7:
                at += 1
            scans.append(jpeg[begun:at])
            begun = at
            if jpeg[at + 1] == 0xD9:
                return head, scans


def many_scans(count: int, image=None, **settings) -> bytes:
    """Makes a progressive JPEG that repeats its last, refining scan until there are `count` scans."""
    jpeg = encoded(smooth() if image is None else image, "JPEG", progressive=True, **settings)
    head, scans = parts_of(jpeg)
    return head + b"".join(scans) + scans[-1] * (count - len(scans)) + b"\xff\xd9"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"progressive": True},
        {"progressive": True, "subsampling": 0},
        {"restart_marker_blocks": 1},
        {"progressive": True, "restart_marker_rows": 1},
        {"comment": b"\xff\xda\xff\xda" * 900},
    ],
)
def test_counts_scans_as_the_standard_defines_them(settings):
    noisy = np.random.default_rng(0).integers(
        0, 256, (64, 48, 3), np.uint8
    )  # so that there are FF00 and more
    jpeg = encoded(noisy, "JPEG", quality=98, **settings)
    assert count_scans(jpeg) == len(parts_of(jpeg)[1]) == (10 if "progressive" in settings else 1)


def test_ignores_a_thumbnail_and_a_second_image():
    thumbnail = encoded(smooth(), "JPEG", progressive=True)
    exif = b"Exif\0\0" + thumbnail
    app1 = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    jpeg = encoded(smooth(), "JPEG")
    whole = jpeg[:2] + app1 * 20 + jpeg[2:]
    assert count_scans(whole) == 1 and count_scans(whole + many_scans(50)) == 1
    assert count_scans(many_scans(37)) == 37
    assert count_scans(many_scans(37).replace(b"\xff\xda", b"\xff\xff\xff\xda")) == 37  # fill bytes


@given(st.binary(max_size=300))
def test_counts_scans_of_arbitrary_bytes(data):
    assert 0 <= count_scans(b"\xff\xd8" + data) <= data.count(b"\xda")


def test_counts_scans_after_markers_that_decoders_skip():
    """A reserved marker has no length; taking one for a segment would hide the scans after it."""
    head, scans = parts_of(encoded(smooth(), "JPEG", progressive=True))
    assert count_scans(head + b"\xff\x02\xff\xff" + b"".join(scans) + b"\xff\xd9") == 10


@pytest.fixture
def decoded(monkeypatch):
    """Records the formats of the images that are passed to a decoder."""
    seen, load = [], ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: seen.append(image.format) or load(image))
    return seen


@pytest.mark.parametrize(
    "read", ["bytes", "path", "resized", "crop", "upload", "PIL", "check", "index", "train"]
)
def test_rejects_a_jpeg_of_many_scans_before_decoding(tmp_path, decoded, read):
    data = many_scans(MAX_SCANS + 1)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    readers = {
        "bytes": lambda: read_image(data),
        "path": lambda: read_image(path),
        "resized": lambda: read_resized(path, (8, 4)),
        "crop": lambda: read_image(Crop(str(path), 0, 0, 5, 5)),
        "upload": lambda: read_upload(data),
        "PIL": lambda: read_image(Image.open(io.BytesIO(data))),
        "train": lambda: decode_all([str(path)], (8, 4)),
    }
    if read == "check":
        kind, message = check_image((str(path), None))
        assert kind == "unreadable pictures"
    elif read == "index":
        (found,) = read_ahead(tmp_path, [Photo("a.jpg")], (8, 4))
        message = found.error
    else:
        with pytest.raises(UserError) as error:
            readers[read]()
        message = str(error.value)
    assert f"more than {MAX_SCANS} scans" in message and "\n" not in message
    assert decoded == []


def test_reads_the_maximum_number_of_scans(decoded):
    assert np.abs(read_image(many_scans(MAX_SCANS)).astype(int) - smooth()).mean() < 8
    assert "JPEG" in decoded
    for count in (1, 10, 64):  # as libjpeg writes them, and as much as jpegtran's scripts make of them
        check_scans("a.jpg", count, 12_000_000)


def test_limits_scans_times_pixels(decoded):
    """Fewer scans of a larger image are as much work: this header says 225 megapixels."""
    data = bytearray(many_scans(MAX_SCANS - 10))
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", 15_000, 15_000)
    assert (MAX_SCANS - 10) * 15_000**2 > MAX_SCANNED_PIXELS
    with pytest.raises(UserError, match="90 scans of 225,000,000 pixels would take too long"):
        read_image(bytes(data))
    assert decoded == []


def test_rejects_a_tiff_of_jpegs_with_many_scans(decoded):
    """A strip of a TIFF may be a JPEG; the file has the fields that TIFF 6.0 requires."""
    jpeg = many_scans(MAX_SCANS + 1, Image.fromarray(smooth()).convert("L"))
    fields = [
        (256, 4, 20),
        (257, 4, 48),
        (258, 3, 8),
        (259, 3, 7),
        (262, 3, 1),
        (273, 4, 8 + 2 + 9 * 12 + 4),
        (277, 3, 1),
        (278, 4, 48),
        (279, 4, len(jpeg)),
    ]
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1)
        + struct.pack("<I" if kind == 4 else "<HH", value, *([0] * (kind == 3)))
        for tag, kind, value in fields
    )
    data = struct.pack("<2sHIH", b"II", 42, 8, len(fields)) + entries + b"\0\0\0\0" + jpeg
    with pytest.raises(UserError, match="scans"):
        read_image(data)
    assert decoded == []


def chunk(kind: bytes, content: bytes, checksum: int = 0) -> bytes:
    """Makes a PNG chunk; `checksum` is added to its checksum."""
    right = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", right ^ checksum)


def with_chunk(png: bytes, made: bytes, before: bytes = b"IDAT") -> bytes:
    at = png.index(before) - 4
    return png[:at] + made + png[at:]


HARMLESS = {
    "long text": chunk(b"tEXt", b"Comment\0" + b"a" * (3 << 20)),
    "compressed text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (3 << 20))),
    "international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"a" * (3 << 20))),
    "profile": chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(5 << 20))),
    "broken profile": chunk(b"iCCP", b"a\0\0no zlib"),
    "text checksum": chunk(b"tEXt", b"Comment\0a", 1),
    "gamma checksum": chunk(b"gAMA", b"\0\0\xb1\x8f", 0x80000000),
    "private checksum": chunk(b"prVt", b"abc", 7),
    "exif checksum": chunk(b"eXIf", b"II*\0", 7),
    "short gamma": chunk(b"gAMA", b"\0"),
    "short physical": chunk(b"pHYs", b"\0"),
    "animation": chunk(b"acTL", struct.pack(">II", 3, 0)) + chunk(b"fcTL", b"\0" * 26),
}


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("name", HARMLESS)
def test_reads_a_png_with_damaged_ancillary_chunks(name, before):
    data = with_chunk(encoded(smooth(), "PNG"), HARMLESS[name], before)
    np.testing.assert_array_equal(read_image(data), smooth())
    np.testing.assert_array_equal(read_upload(data), smooth())


def test_reads_a_png_with_eighty_texts_of_a_megabyte():
    """Pillow allows each, but not all of them together."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (1 << 20)))
    np.testing.assert_array_equal(read_image(with_chunk(encoded(smooth(), "PNG"), text * 80)), smooth())


def test_returns_a_valid_png_unchanged():
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (
        encoded(smooth(), "PNG"),
        encoded(smooth(), "PNG", exif=exif),
        encoded(smooth(), "JPEG"),
        b"",
    ):
        assert pixels_only(data) is data


def test_keeps_transparency_and_orientation():
    palette = Image.fromarray(smooth()).convert("P")
    plain = encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))
    np.testing.assert_array_equal(read_image(with_chunk(plain, HARMLESS["long text"])), read_image(plain))
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = with_chunk(encoded(smooth(), "PNG", exif=exif), HARMLESS["profile"])
    np.testing.assert_array_equal(read_image(turned), np.rot90(smooth()))
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/>'
    by_xmp = with_chunk(encoded(smooth(), "PNG"), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    np.testing.assert_array_equal(read_image(by_xmp), smooth()[::-1, ::-1])


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"IEND", b"PLTE"])
def test_rejects_wrong_checksums_of_critical_chunks(kind):
    source = Image.fromarray(smooth()).convert("P") if kind == b"PLTE" else smooth()
    data = bytearray(encoded(source, "PNG"))
    at = data.index(kind)
    length = struct.unpack_from(">I", data, at - 4)[0]
    data[at + 4 + length] ^= 1
    with pytest.raises(UserError, match=r"damaged or truncated image .*checksum"):
        read_image(bytes(data))


def test_rejects_a_png_truncated_within_its_pixels():
    data = encoded(smooth(), "PNG")
    with pytest.raises(UserError, match="truncated"):
        read_image(data[: data.index(b"IEND") - 9])
    np.testing.assert_array_equal(read_image(data[: data.index(b"IEND") + 2]), smooth())


@given(st.data())
def test_dropped_chunks_never_change_pixels(data):
    """Adds any ancillary chunks, in any position, with any content and checksum."""
    known = [b"tRNS", b"eXIf", b"iTXt", b"zTXt", b"tEXt", b"fdAT"]
    letters = st.sampled_from("abcdefghijklmnopqrstuvwxyz")
    kinds = st.tuples(letters, letters, letters.map(str.upper), letters).map(lambda k: "".join(k).encode())
    png = encoded(smooth(), "PNG")
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(kinds.filter(lambda k: k not in known))
        made = chunk(kind, data.draw(st.binary(max_size=50)), data.draw(st.integers(0, 2)))
        png = with_chunk(png, made, data.draw(st.sampled_from([b"IDAT", b"IEND"])))
    np.testing.assert_array_equal(read_image(png), smooth())
