"""Cleans text before CLIP's byte-pair encoding, as CLIP's own tokenizer does."""

import html
import re
import unicodedata

# `ftfy` returns text of only these characters unchanged, and takes 30 times as long. Most captions have no
# others.
PLAIN = re.compile(r"[\t\n\r -%'-~]*")  # printable ASCII without "&", and white space

_ASCII_WORD = re.compile(r"[A-Za-z0-9]")


def replace_surrogates(text: str) -> str:
    """Joins pairs of UTF-16 surrogates, and replaces lone ones, which cannot be encoded, by U+FFFD."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean(text: str) -> str:
    """Returns the lower-case text that CLIP encodes, with single spaces. Accepts any string."""
    return repair(text).lower()


def repair(text: str) -> str:
    """Returns the text that CLIP encodes before it is made lower case, with single spaces.

    Equals CLIP's `basic_clean` and `whitespace_clean`: `ftfy.fix_text` (wrongly decoded bytes, curly quotes,
    ligatures, full-width letters, control characters, NFC), then HTML entities unescaped twice.
    """
    if not PLAIN.fullmatch(text):
        import ftfy  # imported lazily: takes a tenth of a second, which plain text does not need

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


def is_empty(text: str) -> bool:
    """Returns whether a text shows nothing once it is cleaned, such as white space or `&nbsp;`."""
    if PLAIN.fullmatch(text):
        return not text.strip()
    # Only entities, escape sequences and wrongly decoded bytes can become nothing; cleaning takes long.
    if "&" not in text and "\x1b" not in text and _has_certain_letter(text):
        return False
    return all(unicodedata.category(c) in ("Cf", "Cc", "Zs", "Zl", "Zp") for c in repair(text))


def _has_certain_letter(text: str) -> bool:
    return bool(_ASCII_WORD.search(text)) or any(c > "\u02ff" and c.isalpha() for c in text)
