"""Reads records from JSON, JSON lines or CSV files, and reports what is wrong with invalid ones."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from tpr_jax.data.encodings import decode_text
from tpr_jax.errors import UserError
from tpr_jax.utils.notices import print_once

SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")  # files of spreadsheets, which are not text
_SEPARATORS = ",;\t"
# Invisible characters that come along when text is copied.
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))


class InvalidRecord(NamedTuple):
    """Stands in for a record that cannot be used."""

    reason: str


def read_text(path: str | os.PathLike) -> str:
    """Reads a text file in UTF-8, or another encoding if that is certain, see `encodings.decode_text`.

    Drops a byte-order mark and keeps the line ends as they are. Prints a note if the encoding was assumed.

    Raises:
      UserError: the file cannot be read, or its encoding is not certain.
    """
    text, notes = _decode(path)
    for note in notes:
        print_once(note)
    return text


def assumed_encoding(path: str | os.PathLike) -> list[str]:
    """Returns the note that `read_text` prints if the encoding of a file was assumed, else nothing.

    Raises:
      UserError: as `read_text`.
    """
    return _decode(path)[1]


def _decode(path: str | os.PathLike) -> tuple[str, list[str]]:
    try:
        with open(path, "rb") as file:
            text, assumed = decode_text(file.read())
    except ValueError as error:
        raise UserError(f"{path}: {error}: save it in UTF-8, as 'CSV UTF-8'") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the file's permissions") from None
    note = f"{path}: read as {assumed}, because it is not UTF-8; if letters are wrong, save it in UTF-8"
    return text, [note] if assumed else []


def first_duplicate(names: Sequence[str]) -> str:
    """Returns the first name that is repeated; '' if there is none."""
    if len(set(names)) == len(names):
        return ""
    return next(name for i, name in enumerate(names) if name in names[:i])


def json_records(path: str | os.PathLike) -> Iterator[tuple[int, object]]:
    """Yields (index, element) of a file that holds one JSON list.

    An object that repeats a field is an `InvalidRecord`: JSON's own rule would silently take the last value.

    Raises:
      UserError: the file cannot be read, or is not a JSON list.
    """
    records = _read_json(path, _fields_or_invalid)
    if not isinstance(records, list):
        raise UserError(f"{path}: must be a list of records, not {type(records).__name__}")
    yield from enumerate(records)


def json_pairs(path: str | os.PathLike) -> Iterator[tuple[str, object]]:
    """Yields (name, value) of a file that holds one JSON object, whose names may repeat.

    Raises:
      UserError: the file cannot be read, or is not a JSON object.
    """
    pairs = _read_json(path, _Pairs)
    if not isinstance(pairs, _Pairs):
        raise UserError(f"{path}: must be an object, image: captions, not {type(pairs).__name__}")
    yield from pairs


def json_lines(path: str | os.PathLike) -> Iterator[tuple[int, str, dict | str]]:
    """Yields (line number, line, its fields or the reason why it has none) of each line that is not blank.

    Strings may hold unescaped control characters, such as a tab.

    Raises:
      UserError: the file cannot be read, its encoding is not certain, or it holds one JSON list.
    """
    text = read_text(path)
    if _is_json_list(text):
        raise UserError(f"{path}: is one JSON list: write one object per line, without brackets and commas")
    # `splitlines` would also split at U+2028, which may occur in a string.
    for number, line in enumerate(_with_newlines(text).split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line, strict=False, object_pairs_hook=_unique_fields)
        except _DuplicateFieldError as error:
            yield number, line, f"names field '{error}' twice: leave one out"
            continue
        except (ValueError, RecursionError) as error:
            yield number, line, f"not JSON ({error})"
            continue
        if not isinstance(fields, dict):
            fields = f"must be an object with fields, not {type(fields).__name__}"
        yield number, line, fields


def _is_json_list(text: str) -> bool:
    """Returns whether a text is one JSON list of objects, perhaps of many lines."""
    if not text.lstrip().startswith("["):
        return False
    try:
        records = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return any(isinstance(record, dict) for record in records)


def csv_lines(
    path: str | os.PathLike, check: Callable[[list[str]], None]
) -> tuple[list[str], list[tuple[int, list[str] | str]]]:
    """Reads a CSV file.

    All lines end as the first one does; other line-breaking characters, which word processors write, belong
    to the cell (a lone carriage return as a space). Blanks around names and cells are dropped, also outside
    of quotes. The separator is the comma or the semicolon, whichever the first line has more of, or the tab
    if it has neither; or what the first line declares as spreadsheets do (`sep=;`).

    Args:
      path: the file.
      check: called with the column names before the other lines are read; may raise.

    Returns:
      The column names, and (number of the first line, cells or the reason why they are invalid) of each other
      record that is not empty.

    Raises:
      UserError: the file cannot be read, its encoding is not certain, or it is not CSV.
    """
    text = re.sub(r"\r(?!\n)", " ", _with_newlines(read_text(path)))
    declared = re.match(rf"\"?sep=([{_SEPARATORS}])\"?\r?\n", text, re.IGNORECASE)
    text = text[declared.end() :] if declared else text
    separator = declared[1] if declared else _find_separator(text.partition("\n")[0])
    text = _strip_around_quotes(text, separator)
    skipped = 1 if declared else 0
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=separator, strict=True)
    records = _csv_records(reader, path, skipped)
    _, header = next(records, (1, []))
    check(header)
    rows = list(records)
    reason = "has {} fields, the first line {}: fix its commas, or put texts with commas in quotes"
    return header, [
        (number, cells if len(cells) == len(header) else reason.format(len(cells), len(header)))
        for number, cells in rows
        if any(cells)  # spreadsheets add empty lines of nothing but commas
    ]


def _csv_records(reader, path: str | os.PathLike, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the first line, cells) of each record; a quoted cell may have several lines."""
    while True:
        number = skipped + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}: line {number} is not CSV ({error}): fix its quotes and commas"
            ) from None
        if cells is None:
            return
        yield number, [cell.strip() for cell in cells]


def rename_known(names: Sequence[str], known: Collection[str]) -> list[str]:
    """Replaces names that differ from a known one only in case and invisible characters.

    `Image` becomes `image`, also if there is an `image` already, so that it is told as a duplicate.
    """
    return [folded if (folded := _fold_name(name)) in known else name for name in names]


def _fold_name(name: str) -> str:
    """Returns a column's name in lower case, without blanks around it and invisible characters."""
    return name.translate(_INVISIBLE).strip().lower()


def _find_separator(first_line: str) -> str:
    """Returns the separator that a line has most of outside of quotes; tabs beside others are blanks."""
    outside = re.sub(r'"[^"]*"', "", first_line)
    separator = max(",;", key=outside.count)
    return separator if separator in outside or "\t" not in outside else "\t"


class _Pairs(list):
    """The (name, value) pairs of a JSON object, which are not the items of a JSON list."""


def _read_json(path: str | os.PathLike, object_pairs_hook: Callable[[list], object]) -> object:
    try:
        with open(path, encoding="utf-8-sig") as file:  # some copies start with a byte-order mark
            return json.load(file, object_pairs_hook=object_pairs_hook)
    except (ValueError, RecursionError) as error:  # also for a number of thousands of digits
        raise UserError(f"{path}: not JSON ({error}): get a complete copy of the annotation") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the file's permissions") from None


class _DuplicateFieldError(ValueError):
    """A JSON object repeats this field."""


def _unique_fields(pairs: list[tuple[str, object]]) -> dict:
    if duplicate := first_duplicate([name for name, _ in pairs]):
        raise _DuplicateFieldError(duplicate)
    return dict(pairs)


def _fields_or_invalid(pairs: list[tuple[str, object]]) -> dict | InvalidRecord:
    duplicate = first_duplicate([name for name, _ in pairs])
    return InvalidRecord(f"names field '{duplicate}' twice: leave one out") if duplicate else dict(pairs)


def _with_newlines(text: str) -> str:
    """Converts line ends to newlines if the first line ends with a lone carriage return, as on old Macs."""
    line_end = re.search(r"\r\n|\n|\r", text)
    if line_end is None or line_end[0] != "\r":
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _strip_around_quotes(text: str, separator: str) -> str:
    """Drops blanks between a cell's quotes and the separators, which `csv` would make part of the cell."""
    blanks = rf"[^\S\r\n{separator}]*+"
    cell = rf'(?:(?<=[{separator}\n])|\A){blanks}("[^"]*+(?:""[^"]*+)*+"){blanks}(?=[{separator}\r\n]|\Z)'
    return re.sub(cell, r"\1", text) if '"' in text else text
