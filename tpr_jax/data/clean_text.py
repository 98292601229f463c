"""Tidying text before CLIP's byte-pair encoding, as its own vocabulary was made for."""

import html
import re
import unicodedata

# An escape code for a terminal's colours; and characters that print nothing.
INVISIBLE = re.compile("\x1b\\[[0-9;]*[a-zA-Z]|[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
LIGATURES = re.compile("[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06]")
WIDE_FORMS = re.compile("[\u3000\uff01-\uffef]+")
QUOTES = str.maketrans(dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'") | dict.fromkeys("“”„‟", '"'))
# What Windows' code page 1252 means by the codes that Unicode gives to control characters.
C1_CONTROLS = {
    code: bytes([code]).decode("cp1252")
    for code in range(0x80, 0xA0)
    if code not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
C1_CONTROLS[0x85] = "\n"  # as it is meant far more often than an ellipsis


def replace_surrogates(text: str) -> str:
    """Joins pairs of UTF-16 surrogates; a lone one, which no encoding can hold, becomes U+FFFD."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean(text: str) -> str:
    """Lower-case text with straight quotes, plain letters for ligatures, no entities, single spaces.

    CLIP runs every text through `ftfy.fix_text` and `html.unescape`; this does the same but for the repair of
    wrongly decoded bytes ("Ã©"), which captions do not need. Takes any string.
    """
    if "&" in text and "<" not in text:  # text with a "<" may be markup that means its entities
        text = html.unescape(text)
    text = INVISIBLE.sub("", text)
    if not text.isascii():
        text = replace_surrogates(text).translate(C1_CONTROLS)
        text = LIGATURES.sub(_compatible, text)
        text = WIDE_FORMS.sub(_compatible, text).translate(QUOTES)
        text = unicodedata.normalize("NFC", text)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    return " ".join(text.split()).lower()


def _compatible(match: re.Match) -> str:
    return unicodedata.normalize("NFKC", match[0])
