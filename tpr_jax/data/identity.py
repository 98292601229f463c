"""Normalizes identity labels, for the check of a data set and for training alike."""

import re
import unicodedata

# Invisible characters that come along when text is copied.
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))
_INTEGER_AS_FLOAT = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")


def normalize_id(value):
    """Returns the form that all spellings of an id share; two ids are one person if their `str` agrees.

    An integer of 64 bits stays an int, whether JSON writes it as 7 or 7.0; a longer one becomes a name. Names
    lose surrounding blanks and are composed (NFKC: a name from macOS equals the same name from Linux, and
    full-width digits become digits); "7.0", as spreadsheets write it, becomes "7". Leading zeros and case
    stay: "007" is not "7". Any other value, which is not an id, is returned unchanged.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, str):
        name = " ".join(unicodedata.normalize("NFKC", value.translate(_INVISIBLE)).split())
        integer = _INTEGER_AS_FLOAT.fullmatch(name)
        return integer[1] if integer else name
    return value
