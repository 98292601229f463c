"""Tidying text before CLIP's byte-pair encoding, as its own vocabulary was made for."""

import html
import re
import unicodedata

# An escape code for a terminal's colours; and characters that print nothing.
INVISIBLE = re.compile("\x1b\\[[0-9;]*[a-zA-Z]|[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
LIGATURES = re.compile("[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06]")
WIDE_FORMS = re.compile("[\u3000\uff01-\uffef]+")
QUOTES = str.maketrans(dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'") | dict.fromkeys("“”„‟", '"'))
# How Windows' code page 1252 reads the bytes 0x80 to 0xBF; the five it leaves out are control characters.
UPPER_BYTES = {
    byte: bytes([byte]).decode("cp1252") if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(byte)
    for byte in range(0x80, 0xC0)
}
C1_CONTROLS = {code: UPPER_BYTES[code] for code in range(0x80, 0xA0)} | {0x85: "\n"}
# UTF-8 read as code page 1252: the accented letters and signs of Western text ("Ã©", "â€™") become these.
BYTE_OF = {letter: byte for byte, letter in UPPER_BYTES.items()} | {"Â": 0xC2, "Ã": 0xC3, "â": 0xE2}
MISREAD = re.compile("[ÂÃ][{0}]|â[{0}]{{2}}".format(re.escape("".join(UPPER_BYTES.values()))))


def replace_surrogates(text: str) -> str:
    """Joins pairs of UTF-16 surrogates; a lone one, which no encoding can hold, becomes U+FFFD."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean(text: str) -> str:
    """Lower-case text with straight quotes, plain letters for ligatures, no entities, single spaces.

    CLIP runs every text through `ftfy.fix_text` and `html.unescape`; this does the same, except that of
    wrongly decoded bytes it mends only those of Western text, "Ã©" and "â€™". Takes any string.
    """
    if "&" in text and "<" not in text:  # text with a "<" may be markup that means its entities
        text = html.unescape(text)
    text = INVISIBLE.sub("", text)
    if not text.isascii():
        text = MISREAD.sub(_read_again, replace_surrogates(text)).translate(C1_CONTROLS)
        text = LIGATURES.sub(_compatible, text)
        text = WIDE_FORMS.sub(_compatible, text).translate(QUOTES)
        text = unicodedata.normalize("NFC", text)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    return " ".join(text.split()).lower()


def _compatible(match: re.Match) -> str:
    return unicodedata.normalize("NFKC", match[0])


def _read_again(match: re.Match) -> str:
    return bytes(BYTE_OF[letter] for letter in match[0]).decode("utf-8")
