"""Reads a gallery from a .csv or .jsonl with a column `image`, boxes `x y w h`, and further columns."""

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from tpr_jax.data.boxes import BOX_COLUMNS, Box, read_boxes
from tpr_jax.data.images.size import upright_size
from tpr_jax.data.text_files import InvalidRecord, csv_lines, first_duplicate, json_lines, rename_known
from tpr_jax.errors import UserError, shown
from tpr_jax.utils.lookalikes import describe_lookalike
from tpr_jax.utils.plural import counted

SUFFIXES = (".csv", ".tsv", ".jsonl")
_KNOWN_COLUMNS = ("image", *BOX_COLUMNS)
# Columns that the index adds or that results have: a table may not have its own.
RESERVED = (
    "path",
    *BOX_COLUMNS,
    "file_size",
    "file_mtime_ns",
    "file_sha256",
    "rank",
    "score",
    "box",
    "group",
)
_ZONED = "a time with a time zone"
_FIRST_LETTERS = frozenset("0123456789-.tTfF")  # of all texts that are no text: true, -1, 2024-05-01


class TableRow(NamedTuple):
    """A usable line of a table.

    Attributes:
      line: its number, from 1.
      image: the path of the image, as on the disk.
      box: the box, None for the whole image.
      columns: the further columns; values of a CSV are strings, or None if empty.
    """

    line: int
    image: str
    box: Box | None
    columns: Mapping[str, Any]


def read_table(path: Path, find: Callable[[str], str] = str) -> tuple[list[TableRow], list[tuple[str, str]]]:
    """Reads a table of `SUFFIXES`; prints a note about what was assumed of its encoding and boxes.

    Args:
      path: the table.
      find: returns the path of an image on the disk, by the one that the table has for it.

    Returns:
      The usable lines, and (line, reason) of the others.

    Raises:
      UserError: the file cannot be read, a column is missing or has a reserved name, or boxes have no certain
        meaning.
    """
    lines = list(_json_lines(path) if path.suffix.lower() == ".jsonl" else _csv_lines(path))
    root = path.resolve().parent
    usable = [
        fields if isinstance(fields, dict) and not _why_no_image(fields) else None for _, fields in lines
    ]
    size_of_file = functools.cache(upright_size)

    def size_of(index: int) -> tuple[int, int] | None:
        return size_of_file(root / find((usable[index] or {})["image"]))

    layout, boxes = read_boxes(usable, str(path), size_of)
    box_columns = {*BOX_COLUMNS, *(layout.columns if layout else ())}
    rows, skipped = [], []
    for (number, fields), box in zip(lines, boxes, strict=True):
        reason = box.reason if isinstance(box, InvalidRecord) else _why_no_image(fields)
        if reason or isinstance(fields, str) or isinstance(box, InvalidRecord):
            skipped.append((f"{path.name}: line {number}", reason))
            continue
        columns = {name: value for name, value in fields.items() if name not in ("image", *box_columns)}
        for name in columns:
            if name in RESERVED:
                raise UserError(f"{path}: column '{name}' has a name that the index uses: rename the column")
        rows.append(TableRow(number, find(fields["image"]), box, columns))
    return rows, skipped


def _why_no_image(fields: dict | str) -> str:
    """Returns why a line cannot be used, before its box is read; '' if it can."""
    if isinstance(fields, str):
        return fields
    image = fields.get("image")
    if not isinstance(image, str) or not image:
        return "field 'image' must be the path of an image"
    return "field 'image' is not a valid path" if "\0" in image else ""


def to_arrow(values: Sequence) -> pa.Array:
    """Converts the values of a column to an Arrow array of the narrowest type that holds all of them.

    The types are booleans (true and false in any case), 64-bit integers, floats, times (ISO 8601; converted
    to UTC if they have a time zone) and strings. Numbers with leading zeros, such as 007, stay strings, and
    so do integers that would be rounded, such as time stamps of 20 digits.

    Args:
      values: the values; None is null.
    """
    present = [value for value in values if value is not None]
    if present and all(_parse_bool(value) is not None for value in present):
        return pa.array([None if value is None else _parse_bool(value) for value in values], pa.bool_())
    if present and all(isinstance(value, bool | list | dict) for value in present):
        return pa.array([None if v is None else json.dumps(v, ensure_ascii=False) for v in values])
    for convert, dtype in ((_parse_int, pa.int64()), (_parse_float, pa.float64())):
        if (converted := _convert_all(convert, values)) is not None:
            return pa.array(converted, dtype)
    times = _convert_all(_parse_time_value, values)
    zoned = {time.tzinfo is not None for time in times or () if time is not None}
    if len(zoned) == 1:
        return pa.array(times, pa.timestamp("us", tz="UTC" if zoned.pop() else None))
    texts = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    return pa.array(texts, pa.string())


def describe_odd_cells(rows: Sequence[TableRow]) -> list[str]:
    """Describes the columns that are text only because of cells unlike most others.

    A condition on such a column compares letters, without an error. At least half of the values must have the
    narrower type: a line about a column that is meant as text does less harm than a wrong answer. Digits such
    as 007, which `to_arrow` keeps as text on purpose, are not odd.

    Args:
      rows: the usable lines of a table.
    """
    notes = []
    for name in dict.fromkeys(name for row in rows for name in row.columns):
        cells = [(row.line, row.columns[name]) for row in rows if row.columns.get(name) is not None]
        if note := _describe_odd_cell(cells):
            notes.append(f"column '{name}': {note}, so the column is text")
    return notes


def _describe_odd_cell(cells: Sequence[tuple[int, Any]]) -> str:
    """Describes the first of the (line, value) whose types differ from that of most; '' if none does."""
    if not pa.types.is_string(to_arrow([value for _, value in cells]).type):
        return ""
    kind_of_text = functools.cache(_kind)
    kinds = [kind_of_text(value) if isinstance(value, str) else _kind(value) for _, value in cells]
    counts = Counter(kind for kind in kinds if kind)
    common, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    odd = [(*cell, kind) for cell, kind in zip(cells, kinds, strict=True) if kind != common]
    if not odd or 2 * count < len(cells):
        return ""
    if common == "a number" and all(_is_digits(value) for _, value, _ in odd):
        return ""
    line, value, kind = odd[0]
    differs = f"is not {common}"
    if {kind, common} == {"a time", _ZONED}:
        differs = f"has {'a' if kind == _ZONED else 'no'} time zone, unlike most"
    others = f" (and {counted(len(odd) - 1, 'other cell')})" if len(odd) > 1 else ""
    return f"line {line}, {shown(value)}{others}, {differs}"


def _kind(value: Any) -> str:
    """Returns the type of a value that is narrower than text, for a message; '' for text."""
    if isinstance(value, str) and value[:1] not in _FIRST_LETTERS:
        return ""  # at once, for most texts of a large table
    if _parse_bool(value) is not None:
        return "true or false"
    if any(_convert_all(convert, [value]) for convert in (_parse_int, _parse_float)):
        return "a number"
    times = _convert_all(_parse_time_value, [value])
    return "" if times is None else _ZONED if times[0].tzinfo else "a time"


def _is_digits(value: Any) -> bool:
    is_text = isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value) is not None
    return is_text or (isinstance(value, int) and not isinstance(value, bool))


def _convert_all(convert: Callable[[Any], Any], values: Sequence) -> list | None:
    """Returns all values converted, or None if `convert` raises ValueError for one of them."""
    try:
        return [None if value is None else convert(value) for value in values]
    except ValueError:
        return None


def parse_time(text: str) -> datetime:
    """Parses an ISO 8601 date or time; converts it to UTC if it has a time zone. Raises ValueError."""
    if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}($|[ T])", text):
        raise ValueError(f"{text!r} is not a date")
    time = datetime.fromisoformat(text)
    try:
        return time if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is outside the years 1 to 9999 in UTC") from None


def _parse_bool(value: Any) -> bool | None:
    """Returns True or False, also for a string; None for anything else."""
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None


def _parse_int(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"0|-?[1-9][0-9]{0,18}", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    raise ValueError


def _parse_float(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"-?[1-9][0-9]{15,}", value):
        value = _parse_int(value)  # an id whose digits all count: rejected if it is too long
    if isinstance(value, str) and not re.fullmatch(r"-?(0|[1-9][0-9]*)?(\.[0-9]+)?([eE][+-]?[0-9]+)?", value):
        raise ValueError
    if isinstance(value, bool | list | dict):
        raise ValueError
    number = _to_float(value)
    if not math.isfinite(number) or (isinstance(value, int) and int(number) != value):
        raise ValueError
    return number


def _to_float(value: Any) -> float:
    """Returns `float(value)`, infinite if it is too large. Raises ValueError or TypeError."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _parse_time_value(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError
    return parse_time(value)


def _json_lines(path: Path) -> Iterator[tuple[int, dict | str]]:
    for number, line, fields in json_lines(path):
        if isinstance(fields, str):
            yield number, fields
        elif not (is_utf8(line) and is_utf8(json.dumps(fields, ensure_ascii=False))):
            yield number, "has half of a surrogate pair: fix its \\u escapes"
        else:
            names = rename_known(list(fields), _KNOWN_COLUMNS)
            twice = first_duplicate(names)
            reason = f"names field '{twice}' twice: leave one out"
            yield number, reason if twice else dict(zip(names, fields.values(), strict=True))


def _csv_lines(path: Path) -> Iterator[tuple[int, dict | str]]:
    def check_header(header: list[str]) -> None:
        if not any(header):
            what = "the first line" if path.stat().st_size else "the file"
            raise UserError(
                f"{path}: {what} is empty: the first line must name the columns, such as image,camera,time"
            )
        header = rename_known(header, _KNOWN_COLUMNS)
        if "image" not in header:
            hint = describe_lookalike("image", header) or f", but {', '.join(header)[:200]}"
            raise UserError(f"{path}: the first line must name the columns, and has no column 'image'{hint}")
        for name in header:
            if header.count(name) > 1 or not name:
                raise UserError(f"{path}: the first line names column '{name}' twice or not at all: fix it")

    header, rows = csv_lines(path, check_header)
    header = rename_known(header, _KNOWN_COLUMNS)
    for number, cells in rows:
        if isinstance(cells, str):
            yield number, cells
        else:
            yield number, {name: cell.strip() or None for name, cell in zip(header, cells, strict=True)}


def is_utf8(text: str) -> bool:
    """Returns whether a text can be encoded as UTF-8, that is, has no half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
