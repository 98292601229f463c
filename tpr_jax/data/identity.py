"""Normalizes identity labels, for the check of a data set and for training alike."""

import re
import unicodedata

_INTEGER_AS_FLOAT = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")
# How people make a spreadsheet keep a cell as text: ="007", and '007, but not a name such as 't Hart.
_FORCED_TEXT = re.compile(r"""="([^"]*)"|'(\d[^']*)""")


def normalize_id(value):
    """Returns the form that all spellings of an id share; two ids are one person if their `str` agrees.

    An integer of 64 bits stays an int, whether JSON writes it as 7 or 7.0; a longer one becomes a name. Names
    lose surrounding blanks and all invisible characters (zero-width joiners and direction marks, which other
    programs add), and are composed (NFKC: a name from macOS equals the same name from Linux, and full-width
    digits become digits). As spreadsheets write them, "7.0" becomes "7", and ="007" and '007 become "007".
    Leading zeros and case stay: "007" is not "7". Any other value, which is not an id, is returned unchanged.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, str):
        name = " ".join(unicodedata.normalize("NFKC", _without_invisible(value)).split())
        if forced := _FORCED_TEXT.fullmatch(name):
            name = " ".join((forced[1] or forced[2] or "").split())
        integer = _INTEGER_AS_FLOAT.fullmatch(name)
        return integer[1] if integer else name
    return value


def _without_invisible(text: str) -> str:
    """Drops format and control characters (categories Cf and Cc) that are not white space."""
    if text.isprintable():
        return text
    return "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cf", "Cc"))
