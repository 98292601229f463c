"""Markdown tables, and the marked sections of a page that a program fills in.

The tables are written here because they need ten lines, and `tabulate` is not a dependency.
"""

from collections.abc import Iterable, Sequence

from tpr_jax.errors import UserError


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "", pad: bool = False) -> str:
    """Renders a GitHub-flavored Markdown table.

    Args:
      header: the column titles.
      rows: the cells of each row. Cells are Markdown: use `escape` for plain text.
      align: one letter per column, "l" or "r". By default the first column is left-aligned and the others are
        right-aligned.
      pad: pad the cells so that the columns also line up in the source text.

    Returns:
      The table, without a trailing newline.
    """
    align = align or "l" + "r" * (len(header) - 1)
    rule = ["---:" if side == "r" else "---" for side in align]
    lines = [list(header), rule, *map(list, rows)]
    if pad:
        lines = pad_columns(lines, align)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pad_columns(rows: Sequence[Sequence[str]], align: str = "") -> list[list[str]]:
    """Pads the cells of each column to the same width; see `table` for `align`."""
    columns = list(zip(*rows, strict=True))
    align = align or "l" + "r" * (len(columns) - 1)
    padded = []
    for column, side in zip(columns, align, strict=True):
        width = max(map(len, column))
        padded.append([cell.rjust(width) if side == "r" else cell.ljust(width) for cell in column])
    return [list(row) for row in zip(*padded, strict=True)]


def escape(text: str) -> str:
    """Escapes the characters that would end a table cell."""
    return text.replace("|", "\\|")


def replace_section(page: str, marker: str, text: str) -> str:
    """Replaces the section of a page between `<!-- marker -->` and `<!-- /marker -->`.

    Raises:
      UserError: the page lacks one of the markers.
    """
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if begin not in page or end not in page:
        raise UserError(f"the page has no section for the table: add {begin} and {end} to it")
    return page.partition(begin)[0] + f"{begin}\n{text}\n{end}" + page.partition(end)[2]
