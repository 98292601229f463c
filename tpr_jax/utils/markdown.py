"""Places in a page, between two comments, that a program fills."""

from tpr_jax.errors import UserError


def put(page: str, marker: str, text: str) -> str:
    """The page with the text between `<!-- marker -->` and `<!-- /marker -->`.

    Raises:
      UserError: the page does not have both markers.
    """
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if begin not in page or end not in page:
        raise UserError(f"no place for the table: write {begin} and {end} into the page")
    return page.partition(begin)[0] + f"{begin}\n{text}\n{end}" + page.partition(end)[2]
