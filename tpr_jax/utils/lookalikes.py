"""Says how two names differ that look the same: accents, invisible characters, other alphabets, case."""

import unicodedata
from collections.abc import Iterable
from difflib import SequenceMatcher

# Letters of Cyrillic and Greek that look like Latin ones, after `casefold`.
_LATIN = str.maketrans("асеорхуіјѕԁоανοτρυικχ", "aceopxyijsdoavotpuikx")
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))


def look_same(first: str, second: str) -> bool:
    """Returns whether two names look the same or differ only in case."""
    return skeleton(first) == skeleton(second)


def describe_lookalike(wanted: str, found: Iterable[str]) -> str:
    """Describes the first found name that looks like the wanted one but differs from it; '' if there is none.

    Returns:
      A text that begins with a comma, to be appended to a message that `wanted` is missing.
    """
    for name in found:
        if name != wanted and name.lower() == wanted.lower():
            return f", but '{name}' is there, with other capitals"
        if name != wanted and look_same(name, wanted):
            differences = "; ".join(_describe_difference(wanted, name))
            return f", but '{name}' is there, which differs: {differences}"
    return ""


def skeleton(name: str) -> str:
    """Returns a text that is the same for all names that look the same."""
    composed = unicodedata.normalize("NFKC", name).casefold().translate(_LATIN).translate(_DASHES)
    visible = "".join(letter for letter in composed if unicodedata.category(letter) != "Cf")
    return " ".join(visible.split())


def _describe_difference(wanted: str, found: str) -> list[str]:
    """Returns a text for each place where two names differ, such as "it has U+00E9 (é) for U+00C9 (É)"."""
    steps = SequenceMatcher(None, wanted, found, autojunk=False).get_opcodes()
    texts = []
    for kind, start, end, other_start, other_end in steps:
        if kind == "equal":
            continue
        here, there = _code_points(wanted[start:end]), _code_points(found[other_start:other_end])
        if not here:
            texts.append(f"it also has {there} at position {other_start + 1}")
        elif not there:
            texts.append(f"it lacks {here} after position {other_start}")
        else:
            texts.append(f"it has {there} for {here} at position {other_start + 1}")
    return texts


def _code_points(text: str) -> str:
    names = [f"U+{ord(letter):04X}" for letter in text]
    shown = unicodedata.normalize("NFC", text)
    is_visible = shown.isprintable() and shown.strip() and not unicodedata.combining(shown[0])
    return " ".join(names) + (f" ({shown})" if is_visible else "")
