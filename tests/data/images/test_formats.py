"""Which files are opened as images, and how others are described, without starting a program."""

import ast
import io
import os
import subprocess
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

import tpr_jax.data
from tests.pictures import encoded, smooth
from tpr_jax.data.check import check_image
from tpr_jax.data.images import formats
from tpr_jax.data.images.read import read_image, read_resized
from tpr_jax.errors import UserError
from tpr_jax.search.index.encode import read_ahead
from tpr_jax.search.index.gallery import Photo
from tpr_jax.search.server.images import FORMATS, read_upload

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n0 0 moveto\nshowpage\n%%EOF\n"


@pytest.fixture
def no_programs(monkeypatch, tmp_path):
    """Installs a Ghostscript that records when it is started, and no other program."""
    started = tmp_path / "started"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\necho started > {started}\necho 10.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    calls, popen = [], subprocess.Popen.__init__
    monkeypatch.setattr(
        subprocess.Popen, "__init__", lambda self, *args, **kw: calls.append(args) or popen(self, *args, **kw)
    )
    yield
    assert not calls and not started.exists()


def test_pillow_would_run_ghostscript(monkeypatch):
    """Shows what the tests with `no_programs` guard against, so that they cannot pass without Ghostscript."""
    import PIL.EpsImagePlugin

    calls = []
    monkeypatch.setattr(PIL.EpsImagePlugin, "gs_binary", "gs")
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **kw: calls.append(args))
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kw: calls.append(args))
    with Image.open(io.BytesIO(EPS)) as image, pytest.raises(Exception):  # noqa: B017
        image.load()
    assert calls


@pytest.mark.parametrize("name", ["a.jpg", "a.eps", "a.png", "a"])
@pytest.mark.parametrize("start", [EPS, b"\xc5\xd0\xd3\xc6" + b"\0" * 28 + EPS])
def test_rejects_eps_files_of_any_name(no_programs, tmp_path, name, start):
    path = tmp_path / name
    path.write_bytes(start)
    for source in (path, str(path), start):
        for read in (read_image, lambda source: read_resized(source, (8, 4))):
            with pytest.raises(UserError, match=r"not an image that can be read .*EPS") as error:
                read(source)
            assert "\n" not in str(error.value)
    assert check_image((str(path), None))[0] == "unreadable pictures"
    with pytest.raises(UserError, match=r"not an image that can be read .*EPS"):
        read_upload(start)
    (found,) = read_ahead(tmp_path, [Photo(name)], (8, 4))
    assert "EPS" in found.error and found.pixels is None


def test_a_pil_image_of_eps_is_not_decoded(no_programs):
    with Image.open(io.BytesIO(EPS)) as image, pytest.raises(UserError, match="EPS"):
        read_image(image)


def test_every_open_of_the_package_names_its_formats():
    calls = []
    for path in Path(tpr_jax.__file__).parent.rglob("*.py"):
        calls += [
            (path.name, {word.arg for word in node.keywords})
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open")
        ]
    assert all("formats" in words for _, words in calls), calls
    programs = {"EPS", "PDF", "WMF"}  # formats that Pillow hands to other programs, or can
    assert not programs & {*formats.FORMATS, *FORMATS}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"%PDF-1.7\n", "a PDF"),
        (b"8BPS\0\1" + b"\0" * 20, "a Photoshop file"),
        (b"\xff\x0a" + b"\0" * 20, "a JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 20, "a JPEG XL"),
        (b"II\xbc\x01" + b"\0" * 20, "a JPEG XR"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a raw photo"),
        (b"FUJIFILMCCD-RAW 0201", "a raw photo"),
        (b"IIRO\x08\0\0\0" + b"\0" * 20, "a raw photo"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "a video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video"),
        (b"\x1a\x45\xdf\xa3" + b"\0" * 20, "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "a drawing"),
        (b"<!DOCTYPE html><html>404 not found</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ", "AppleDouble"),
        (b"PK\x03\x04" + b"\0" * 20, "an archive"),
        (b"\0\0\1\0\1\0\x10\x10" + b"\0" * 40, "an icon"),
        (b"nothing that is known", "replace or remove it"),
    ],
)
def test_describes_unsupported_files(data, told):
    with pytest.raises(UserError, match="not an image that can be read") as error:
        read_image(data)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_recognizes_every_format_by_its_signature():
    """Compares with files that Pillow writes, and with published signatures for the rest."""
    names = {"JPEG2000": "JPEG2000", "PPM": "PPM", "TGA": ""}
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA"):
        data = encoded(smooth(), kind)
        assert formats.format_of(data) == names.get(kind, kind)
        assert np.abs(read_image(data).astype(int) - smooth()).mean() < 12, kind
        assert not formats.unsupported_kind(data)
    for big in (b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"):
        assert formats.format_of(big) == "TIFF"
    for brand, others, kind in [
        (b"heic", b"mif1heic", "HEIF"),
        (b"mif1", b"mif1heic", "HEIF"),
        (b"mif1", b"mif1avif", "AVIF"),
        (b"avif", b"avifmif1", "AVIF"),
        (b"msf1", b"msf1hevc", "HEIF"),
        (b"isom", b"isomavc1", ""),
    ]:
        head = (16 + len(others)).to_bytes(4, "big") + b"ftyp" + brand + b"\0\0\0\0" + others
        assert formats.format_of(head) == kind, (brand, others)


def heic(image, **how) -> bytes:
    """Makes a HEIC file; pillow-heif writes the orientation as cameras do."""
    written = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(image)).save(written, quality=95, **how)
    return written.getvalue()


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.jpg"])
def test_heic_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(heic(smooth()))
    assert np.abs(read_image(tmp_path / name).astype(int) - smooth()).mean() < 6
    assert np.abs(read_upload((tmp_path / name).read_bytes()).astype(int) - smooth()).mean() < 6


def test_heic_registers_nothing_with_pillow():
    read_image(heic(smooth()))
    assert "HEIF" not in Image.OPEN


def test_heic_is_upright(tmp_path):
    picture = smooth()
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
        written = io.BytesIO()
        source = pillow_heif.from_pillow(Image.fromarray(np.ascontiguousarray(pixels)))
        source.info["exif"] = exif.tobytes()
        source.save(written, quality=95)
        result = read_image(written.getvalue())
        assert result.shape == picture.shape, orientation
        assert np.abs(result.astype(int) - picture).mean() < 6, orientation


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_rejects_damaged_heic(tmp_path):
    data = heic(smooth())
    for length in (20, len(data) // 3, len(data) - 30):
        with pytest.raises(UserError, match=r"^the image of .* damaged or truncated"):
            read_image(data[:length])


def test_says_what_to_install_without_pi_heif(monkeypatch):
    import sys

    data = heic(smooth())
    monkeypatch.setitem(sys.modules, "pi_heif.as_plugin", None)
    with pytest.raises(UserError, match="install pi-heif"):
        read_image(data)


def test_reads_the_first_of_several_images(tmp_path):
    first, second = smooth(), 255 - smooth()
    for kind, settings in [("MPO", {"quality": 95}), ("PNG", {}), ("GIF", {}), ("TIFF", {}), ("WEBP", {})]:
        more = {"save_all": True, "append_images": [Image.fromarray(second)]}
        data = encoded(first, kind, **more, **settings)
        assert np.abs(read_image(data).astype(int) - first).mean() < 10, kind


def test_rejects_raw_photos_in_tiff_format(tmp_path):
    """DNG, NEF and others are TIFF files whose first image is a small preview."""
    dng = encoded(smooth(), "TIFF", tiffinfo={50706: bytes([1, 4, 0, 0])})
    plain = encoded(smooth(), "TIFF")
    for name, data in [("a.tif", dng), ("a.jpg", dng), ("a.nef", plain), ("a.ARW", plain)]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match="raw photo"):
            read_image(tmp_path / name)
    assert read_image(plain).shape == smooth().shape


def test_known_suffixes_do_not_overlap():
    assert not formats.SUFFIXES & set(formats.UNREADABLE)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in formats.UNREADABLE)
    wanted = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".jxl", ".mp4", ".mov", ".psd"}
    assert wanted <= set(formats.UNREADABLE)
    read = {".heic", ".heif", ".avif", ".mpo", ".apng", ".jfif", ".jpe", ".tif", ".webp", ".jpg", ".png"}
    assert read <= formats.SUFFIXES
