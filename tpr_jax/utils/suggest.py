"""Suggests the nearest known word for a mistyped one."""

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns "did you mean 'X'?" for the nearest known word, or a list of all of them."""
    import difflib  # takes a while, and only mistakes need it

    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(map(str, known))}"
