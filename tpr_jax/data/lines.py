"""Lists that people write, as JSON lines or CSV: the lines with their numbers, and what is wrong with one."""

import csv
import json
import os
from collections.abc import Callable, Iterator

from tpr_jax.errors import UserError


def read_text(path: str | os.PathLike) -> str:
    """A UTF-8 file with its line ends as they are, without a byte-order mark.

    Raises:
      UserError: it cannot be read, or is in another encoding.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}): save it in that encoding") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the file's permissions") from None


def json_lines(path: str | os.PathLike) -> Iterator[tuple[int, str, dict | str]]:
    """(number, line, its fields or why it has none) of each line that is not blank. Raises as `read_text`."""
    for number, line in enumerate(read_text(path).split("\n"), 1):  # not splitlines: U+2028 may be in a text
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, line, f"not JSON ({error})"
            continue
        if not isinstance(fields, dict):
            fields = f"must be an object with fields, not {type(fields).__name__}"
        yield number, line, fields


def csv_lines(
    path: str | os.PathLike, check: Callable[[list[str]], None]
) -> tuple[list[str], list[tuple[int, list[str] | str]]]:
    """(names of the columns, (number, cells or what is wrong) of every other line that is not empty).

    `check` may refuse the names before the other lines are looked at.

    Raises:
      UserError: as `read_text`, or the file is not CSV.
    """
    reader = csv.reader(read_text(path).splitlines(keepends=True), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        check(header)
        rows = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise UserError(
            f"{path}: line {reader.line_num} is not CSV ({error}): mend its quotes and commas"
        ) from None
    wrong = "has {} fields, the first line {}: mend its commas"
    return header, [
        (number, cells if len(cells) == len(header) else wrong.format(len(cells), len(header)))
        for number, cells in rows
    ]
