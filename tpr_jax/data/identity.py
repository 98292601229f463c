"""Says which ids are one person's, for the check of a data set and for training alike."""

import re
import unicodedata

# Characters that print nothing and come along when text is copied.
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")


def identity(value):
    """Returns an id in the form that all ways to write it share; two ids are one person's if `str` agrees.

    A whole number of 64 bits stays an int, whether JSON writes it as 7 or 7.0, and a longer one becomes a
    name. Names lose blanks around them and are composed (NFKC: a name from a Mac is the same as one from
    Linux, and full-width digits are digits); "7.0", as spreadsheets write it, becomes "7". Leading zeros and
    case stay: "007" is not "7". Any other value, which is no id, is returned as it is.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, str):
        name = " ".join(unicodedata.normalize("NFKC", value.translate(_INVISIBLE)).split())
        whole = _WHOLE.fullmatch(name)
        return whole[1] if whole else name
    return value
