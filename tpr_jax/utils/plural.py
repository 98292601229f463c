"""Numbers with their nouns, for messages."""


def counted(number: float, singular: str, plural: str | None = None) -> str:
    """Returns a number with its noun, such as "1 photo" or "3,400 photos".

    Args:
      number: a whole number.
      singular: the noun.
      plural: its plural, by default with an "s".
    """
    return f"{number:,.0f} {singular if number == 1 else plural or f'{singular}s'}"
