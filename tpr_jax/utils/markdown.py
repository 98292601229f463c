"""Fills marked sections of a Markdown page."""

from tpr_jax.errors import UserError


def replace_section(page: str, marker: str, text: str) -> str:
    """Returns the page with `text` between `<!-- marker -->` and `<!-- /marker -->`.

    Raises:
      UserError: the page lacks one of the markers.
    """
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if begin not in page or end not in page:
        raise UserError(f"the page has no place for the table: add the lines {begin} and {end}")
    return page.partition(begin)[0] + f"{begin}\n{text}\n{end}" + page.partition(end)[2]
