"""Encodings of tables: what is certain is read, and what is not is rejected."""

import pytest

from tpr_jax.data.encodings import decode_text

WESTERN = [
    "image;caption\nfu\u00df.jpg;Ein Mann mit gr\u00fcner M\u00fctze, \u00c4rmel l\u00e4ssig\n",
    "Un homme \u2013 cr\u00e9\u00e9e, na\u00efve, \u0153uvre, c\u0153ur, l\u2019\u00e9t\u00e9 \u2026\n",
    "\u201cA man\u201d, \u20ac 5, \u00a1ni\u00f1o! 2\u00ba caf\u00e9, Ma\u00f1ana\u00bb\n",
    "En bl\u00e5 k\u00e5pe, S\u00f8ren \u00c5kesson, \u00d8yvind, bl\u00e5b\u00e6r\n",
]


@pytest.mark.parametrize("text", WESTERN)
def test_western_text(text):
    assert decode_text(text.encode("cp1252")) == (text, "Windows-1252")
    assert decode_text(text.encode()) == (text, "")
    assert decode_text(text.encode("utf-8-sig")) == (text, "")
    assert decode_text(text.encode("utf-16")) == (text, "")


@pytest.mark.parametrize("order", ["le", "be"])
def test_utf_16_without_a_mark(order):
    text = "image;caf\u00e9\n\u65e5\u672c.jpg;x\n"
    assert decode_text(text.encode(f"utf-16-{order}")) == (text, "UTF-16 without a byte-order mark")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Ein Mann mit gr\u00fcner M\u00fctze", "mac-roman"),
        ("un caf\u00e9, un ni\u00f1o", "mac-roman"),
        ("Ein Mann mit gr\u00fcner M\u00fctze", "cp850"),
        ("un caf\u00e9", "cp437"),
        (
            "\u0447\u0435\u043b\u043e\u0432\u0435\u043a \u0432 \u043a\u0440\u0430\u0441\u043d\u043e\u043c",
            "cp1251",
        ),
        (
            "\u0447\u0435\u043b\u043e\u0432\u0435\u043a \u0432 \u043a\u0440\u0430\u0441\u043d\u043e\u043c",
            "koi8-r",
        ),
        ("\u03ac\u03bd\u03b8\u03c1\u03c9\u03c0\u03bf\u03c2", "cp1253"),
        ("m\u0119\u017cczyzna w \u017c\u00f3\u0142tej kurtce", "cp1250"),
        ("\u7537\u306e\u4eba", "shift_jis"),
        ("caf\u00e9", "utf-32"),
    ],
)
def test_rejects_other_encodings(text, encoding):
    with pytest.raises(ValueError, match="not UTF-8"):
        decode_text(text.encode(encoding))


def test_rejects_damaged_text():
    with pytest.raises(ValueError, match="not UTF-8"):
        decode_text("caf\u00e9, Zo\u00eb".encode()[:-1])
    with pytest.raises(ValueError, match="not UTF-8 but UTF-16, byte-order mark fffe, and not whole"):
        decode_text("caf\u00e9".encode("utf-16-le").join([b"\xff\xfe", b"x"]))
