"""Decodes the text files that spreadsheets write: UTF-8, UTF-16 and, where that is certain, Windows-1252."""

import codecs
import re

# Windows-1252 is read only if no other encoding of one byte per letter explains the bytes as well. These are
# what Western text in other encodings (Mac Roman, DOS) and text of other alphabets look like in it: symbols
# and capital letters within words, and three letters with accents in a row.
_LETTER = rb"[A-Za-z\xc0-\xff]"
_NOT_WESTERN = re.compile(
    _LETTER
    + rb"[\x81-\x84\x86-\x8b\x8d-\x90\x9a\x9d-\x9f]|"
    # Between letters; these are quotes, dashes and signs beside words.
    + _LETTER
    + rb"[\x91\x93-\x98\x9b\xa1-\xac\xae-\xb6\xb8-\xbf]"
    + _LETTER
    + rb"|[\xc0-\xff]{3}|[\0\x81\x8d\x8f\x90\x9d]"
)
_UTF_8_LETTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


def decode_text(content: bytes) -> tuple[str, str]:
    """Decodes the content of a text file, and drops a byte-order mark.

    Returns:
      The text, and the encoding if it was assumed: '' for UTF-8, and for UTF-16 with a byte-order mark.

    Raises:
      ValueError: the encoding is not certain; the message says what the file is not.
    """
    if content[:4] in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        raise ValueError("not UTF-8 but UTF-32")
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        try:
            return content.decode("utf-16"), ""
        except UnicodeDecodeError:
            mark = content[:2].hex()
            raise ValueError(f"not UTF-8 but UTF-16, byte-order mark {mark}, and not whole") from None
    if encoding := _utf_16_without_mark(content):
        return content.decode(encoding), "UTF-16 without a byte-order mark"
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        # Text with letters in UTF-8 is damaged, and not in another encoding.
        if _NOT_WESTERN.search(content) or _UTF_8_LETTER.search(content):
            raise ValueError(f"not UTF-8 ({error})") from None
        return content.decode("cp1252"), "Windows-1252"


def _utf_16_without_mark(content: bytes) -> str:
    """Returns the form of UTF-16 whose first line of ASCII a file begins with; '' if it does not."""
    for encoding, high, low in (("utf-16-le", 1, 0), ("utf-16-be", 0, 1)):
        start = content[:8]
        if len(content) % 2 or len(start) < 8 or any(start[high::2]) or not all(start[low::2]):
            continue
        try:
            content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return ""
