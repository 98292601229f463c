"""Lists that people write, as JSON lines or CSV: the lines with their numbers, and what is wrong with one."""

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence

from tpr_jax.errors import UserError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | os.PathLike) -> str:
    """A UTF-8 file with its line ends as they are, without a byte-order mark.

    Raises:
      UserError: it cannot be read, or is in another encoding.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        why = f"but UTF-16, byte-order mark {content[:2].hex()}" if content[:2] in _UTF_16 else f"({error})"
        raise UserError(f"{path}: not UTF-8 {why}: save it in that encoding, as 'CSV UTF-8'") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the file's permissions") from None


def named_twice(pairs: Sequence[tuple[str, object]]) -> str:
    """Returns the first name that a JSON object, given as its pairs, has a second time; empty: none."""
    if len(dict(pairs)) == len(pairs):
        return ""
    names = [name for name, _ in pairs]
    return next(name for i, name in enumerate(names) if name in names[:i])


def json_lines(path: str | os.PathLike) -> Iterator[tuple[int, str, dict | str]]:
    """Yields (number, line, its fields or why it has none) of each line that is not blank.

    A text may hold control characters, such as a tab, as they are. Raises as `read_text`.
    """
    # Not splitlines: U+2028 may be in a text.
    for number, line in enumerate(_with_newlines(read_text(path)).split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line, strict=False, object_pairs_hook=_fields)
        except _NamedTwice as error:
            yield number, line, f"names field '{error}' twice: leave one out"
            continue
        except (ValueError, RecursionError) as error:
            yield number, line, f"not JSON ({error})"
            continue
        if not isinstance(fields, dict):
            fields = f"must be an object with fields, not {type(fields).__name__}"
        yield number, line, fields


def csv_lines(
    path: str | os.PathLike, check: Callable[[list[str]], None]
) -> tuple[list[str], list[tuple[int, list[str] | str]]]:
    """Returns (names of the columns, (number, cells or what is wrong) of every other line that is not empty).

    Lines end as the first one does; other characters that break lines, which word processors write, are part
    of a cell, a lone carriage return as a space. Blanks around names and cells are dropped, around quotes
    too. Where the first line has no comma, semicolons or tabs separate. `check` may refuse the names before
    the other lines are looked at.

    Raises:
      UserError: as `read_text`, or the file is not CSV.
    """
    text = re.sub(r"\r(?!\n)", " ", _with_newlines(read_text(path)))
    first = text.partition("\n")[0]
    separator = next((mark for mark in ",;\t" if mark in first), ",")
    text = _bare_quotes(text, separator)
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=separator, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        check(header)
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UserError(
            f"{path}: line {reader.line_num} is not CSV ({error}): fix its quotes and commas"
        ) from None
    wrong = "has {} fields, the first line {}: fix its commas, or put texts with commas in quotes"
    return header, [
        (number, cells if len(cells) == len(header) else wrong.format(len(cells), len(header)))
        for number, cells in rows
        if any(cells)  # spreadsheets add empty lines of nothing but commas
    ]


class _NamedTwice(ValueError):
    """A JSON object names this field twice."""


def _fields(pairs: list[tuple[str, object]]) -> dict:
    if twice := named_twice(pairs):
        raise _NamedTwice(twice)
    return dict(pairs)


def _with_newlines(text: str) -> str:
    """A text whose first line ends with a single carriage return, as on old Macs, with newlines instead."""
    first = re.search(r"\r\n|\n|\r", text)
    if first is None or first[0] != "\r":
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _bare_quotes(text: str, separator: str) -> str:
    """Drops blanks between a cell's quotes and the separators, which `csv` takes for a part of the cell."""
    blanks = rf"[^\S\r\n{separator}]*+"
    cell = rf'(?:(?<=[{separator}\n])|\A){blanks}("[^"]*+(?:""[^"]*+)*+"){blanks}(?=[{separator}\r\n]|\Z)'
    return re.sub(cell, r"\1", text) if '"' in text else text
