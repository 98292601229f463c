"""Escapes what a terminal must not be sent: line breaks, escape codes and invisible characters."""

import unicodedata


def escape_unprintable(text: str, *, keep_blanks: bool = False) -> str:
    """Escapes line breaks and unprintable characters, as in a Python string.

    Args:
      text: any text.
      keep_blanks: keep blanks of all widths, as in Japanese texts, not only the ordinary one.
    """

    def escape(c: str) -> str:
        if c.isprintable() or (keep_blanks and unicodedata.category(c) == "Zs"):
            return c
        return c.encode("unicode_escape").decode()

    return text if text.isprintable() else "".join(map(escape, text))
