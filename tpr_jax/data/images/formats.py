"""The supported image formats, their suffixes, and descriptions of files of other kinds."""

import importlib
import os
import re
from collections.abc import Sequence

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

# Pillow opens further formats, which are not used for photos. One of them is EPS, which it passes to
# Ghostscript, which executes programs. The formats are tried in this order; TGA has no signature and comes
# last.
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "AVIF",
    "HEIF",
    "JPEG2000",
    "PPM",
    "TGA",
)

_PLUGINS = {"JPEG2000": "Jpeg2KImagePlugin", "WEBP": "WebPImagePlugin"}  # others: as "JpegImagePlugin"

# fmt: off
SUFFIXES = frozenset((
    ".apng", ".avif", ".avifs", ".bmp", ".gif", ".heic", ".heics", ".heif", ".heifs", ".hif", ".j2c", ".j2k",
    ".jfi", ".jfif", ".jif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm",
    ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
))

_RAW = "a raw photo of a camera"
_VIDEO = "a video"
_OTHERS = {
    _RAW: (
        ".3fr .ari .arw .bay .cap .cr2 .cr3 .crw .dcr .dcs .dng .drf .eip .erf .fff .gpr .iiq .k25 .kdc .mdc "
        ".mef .mos .mrw .nef .nrw .orf .ori .pef .ptx .pxn .r3d .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .x3f"
    ),
    _VIDEO: (
        ".3g2 .3gp .asf .avi .divx .f4v .flv .h264 .h265 .hevc .insv .lrv .m2ts .m2v .m4v .mjpeg .mjpg .mkv "
        ".mov .mp4 .mpe .mpeg .mpg .mts .mxf .ogv .vob .webm .wmv"
    ),
    "a JPEG XL": ".jxl",
    "a JPEG XR": ".jxr .hdp .wdp",
    "an EPS or PostScript file": ".eps .epsf .epsi .ps",
    "a PDF": ".pdf",
    "a drawing": ".ai .cdr .emf .svg .svgz .wmf",
    "a Photoshop file": ".psb .psd",
    "a project of a paint program": ".afphoto .clip .kra .ora .pdn .xcf",
    "an image format that is not used for photos": (
        ".bpg .cin .cur .dcx .dds .dib .djvu .dpx .exr .fits .flif .hdr .icns .ico .insp .jng .jps .mng .pcx "
        ".pfm .pict .qoi .ras .rgbe .sgi .tgs .xbm .xpm"
    ),
}
# fmt: on
# Known but unsupported kinds of images and videos: suffix -> description.
UNREADABLE = {suffix: kind for kind, suffixes in _OTHERS.items() for suffix in suffixes.split()}

# The first bytes of files that are sometimes named .jpg.
_SIGNATURES = (
    (rb"%!PS|\xc5\xd0\xd3\xc6", "an EPS or PostScript file"),
    (rb"\s*%PDF", "a PDF"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL"),
    (rb"II\xbc", "a JPEG XR"),
    (rb"(?s)....ftypcrx |FUJIFILMCCD|IIR[OS]|MMOR|IIU\0|FOVb|\0MRM", _RAW),
    (rb"(?s)....(ftyp|moov|mdat|wide|free)|RIFF....AVI ", _VIDEO),
    (rb"\x1a\x45\xdf\xa3|FLV\x01|\0\0\x01[\xb3\xba]|\x30\x26\xb2\x75|OggS", _VIDEO),
    (rb"8BPS", "a Photoshop file"),
    (rb"gimp xcf", "a project of a paint program"),
    (rb"\0\0[\x01\x02]\0[\x01-\xff]\0", "an icon"),
    (rb"\0\x05\x16[\0\x07]", "macOS metadata of another file (AppleDouble)"),
    (rb"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the file"),
    (rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf", "an archive"),
    (
        rb"(?is)(\xef\xbb\xbf)?\s*(<\?xml.{0,500})?(<!--.{0,300}-->\s*|<!doctype svg.{0,300})?<svg",
        "a drawing",
    ),
    (rb"(?is)(\xef\xbb\xbf)?\s*<(!doctype html|html|head|script)", "a web page"),
)


def openers(formats: Sequence[str] = FORMATS) -> list[tuple]:
    """Returns the openers of the formats that are available here; registers only Pillow's own plugins.

    Returns:
      (format, function that opens a file object, function that recognizes the first 16 bytes or None) of
      each.
    """
    available = []
    for name in formats:
        try:
            if name == "HEIF":
                from pi_heif.as_plugin import HeifImageFile  # lazily: loads a shared library

                available.append((name, HeifImageFile, is_heif))
                continue
            importlib.import_module(f"PIL.{_PLUGINS.get(name) or name.capitalize() + 'ImagePlugin'}")
        except ImportError:  # Pillow is too old or was built without it
            continue
        if name in Image.OPEN:
            available.append((name, *Image.OPEN[name]))
    return available


def is_heif(start: bytes) -> bool:
    """Returns whether the first 12 bytes are those of HEIC or HEIF; videos use the same container."""
    return start[4:8] == b"ftyp" and _brand(start) == "HEIF"


def format_of(data: bytes) -> str:
    """Returns the format whose signature a file has; '' for none, and for TGA, which has no signature."""
    if data[4:8] == b"ftyp":
        return _brand(data)
    for pattern, name in _OWN_SIGNATURES:
        if re.match(pattern, data):
            return name
    return ""


_OWN_SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"(?s)RIFF....WEBP", "WEBP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"BM", "BMP"),
    (rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0", "TIFF"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (rb"P[0-6yfF][\s#]", "PPM"),
)


def _brand(data: bytes) -> str:
    """Returns the format of a file in an MPEG-4 container: 'HEIF', 'AVIF' or ''."""
    length = min(max(int.from_bytes(data[:4], "big"), 16), 4096)
    brands = [data[8:12], *(data[i : i + 4] for i in range(16, min(length, len(data)), 4))]
    if any(brand in (b"avif", b"avis") for brand in brands):
        return "AVIF"
    heif = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2")
    return "HEIF" if brands[0] in heif else ""


def unsupported_kind(data: bytes) -> str:
    """Describes a file of an unsupported kind by its first bytes; returns '' if they are not known."""
    if format_of(data):
        return ""
    return next((kind for pattern, kind in _SIGNATURES if re.match(pattern, data)), "")


def why_unreadable(name: str, data: bytes = b"") -> str:
    """Explains why a file cannot be read, by its first bytes or else its name, for a message."""
    missing = {"AVIF": "Pillow 11.3 or later", "HEIF": "pi-heif"}.get(format_of(data))
    if missing:
        return f"not an image that can be read here: install {missing}"
    kind = unsupported_kind(data) or UNREADABLE.get(suffix_of(name), "")
    if not kind:
        return "not an image that can be read: replace or remove it"
    remedy = "extract single frames from it" if kind == _VIDEO else "save it as JPEG or PNG"
    return f"not an image that can be read ({kind}): {'replace it' if ':' in kind else remedy}"


def suffix_of(name: str) -> str:
    """Returns the suffix of a file's name in lower case, such as '.jpg'."""
    return os.path.splitext(name)[1].lower()


def is_raw(image: Image.Image, name: str) -> bool:
    """Returns whether an opened TIFF is a raw photo, of which only the preview could be read.

    Recognizes it by its DNG tag or its name.
    """
    if not isinstance(image, TiffImageFile):
        return False
    return 50706 in image.tag_v2 or UNREADABLE.get(suffix_of(name)) == _RAW
