"""A gallery as a table: a .csv or .jsonl with a column `image`, boxes `x y w h`, and any further columns."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from tpr_jax.data.text_files import csv_lines, json_lines
from tpr_jax.errors import UserError

BOX = ("x", "y", "w", "h")
# Columns that the index adds, or that the answers have: a table may not bring its own.
RESERVED = ("path", *BOX, "file_size", "file_mtime_ns", "file_sha256", "rank", "score", "box", "group")


def read_table(path: Path) -> tuple[list[tuple[int, str, tuple | None, dict]], list[tuple[str, str]]]:
    """((line from 1, picture's path, box or None, columns) of usable lines, (line, why) of the others).

    Values of a CSV are strings, an empty one is None; `column` gives whole columns a type.

    Raises:
      UserError: the file cannot be read, or a column is missing or has a reserved name.
    """
    lines = _csv_lines(path) if path.suffix.lower() == ".csv" else _json_lines(path)
    rows, skipped = [], []
    for number, fields in lines:
        where = f"{path.name}: line {number}"
        try:
            if isinstance(fields, str):
                raise ValueError(fields)
            image = fields.pop("image", None)
            if not isinstance(image, str) or not image:
                raise ValueError("field 'image' must be the path of a picture")
            if "\0" in image:
                raise ValueError("field 'image' is no path")
            box = _box({name: fields.pop(name, None) for name in BOX})
        except ValueError as error:
            skipped.append((where, str(error)))
            continue
        for name in fields:
            _check_name(path, name)
        rows.append((number, image, box, fields))
    return rows, skipped


def column(values: Sequence) -> pa.Array:
    """Returns values of a column (None: nothing) as an Arrow array of the narrowest type that holds them all.

    Booleans (true and false in any case), whole numbers of 64 bits, numbers, times (ISO 8601; with a zone
    they become UTC) or else texts. Numbers with leading zeros, such as 007, stay texts, and so do whole
    numbers that would be rounded, such as time stamps of 20 digits.
    """
    present = [value for value in values if value is not None]
    if present and all(_truth(value) is not None for value in present):
        return pa.array([None if value is None else _truth(value) for value in values], pa.bool_())
    if all(isinstance(v, bool | list | dict) for v in present) and present:
        return pa.array([None if v is None else json.dumps(v, ensure_ascii=False) for v in values])
    for convert, kind in ((_whole, pa.int64()), (_number, pa.float64()), (_time, None)):
        try:
            found = [None if v is None else convert(v) for v in values]
        except ValueError:
            continue
        if kind is not None:
            return pa.array(found, kind)
        zones = {v.tzinfo is not None for v in found if v is not None}
        if len(zones) == 1:
            return pa.array(found, pa.timestamp("us", tz="UTC" if zones.pop() else None))
    texts = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    return pa.array(texts, pa.string())


def parse_time(text: str) -> datetime:
    """An ISO 8601 date or time; one with a zone in UTC. Raises ValueError for anything else."""
    if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}($|[ T])", text):
        raise ValueError(f"{text!r} is no date")
    time = datetime.fromisoformat(text)
    try:
        return time if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is outside the years 1 to 9999 in UTC") from None


def _truth(value) -> bool | None:
    """True or False, also as a text; None for anything else."""
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None


def _whole(value) -> int:
    if isinstance(value, str) and re.fullmatch(r"0|-?[1-9][0-9]{0,18}", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    raise ValueError


def _number(value) -> float:
    if isinstance(value, str) and re.fullmatch(r"-?[1-9][0-9]{15,}", value):
        value = _whole(value)  # an id, of which each digit counts: not if it is too long
    if isinstance(value, str) and not re.fullmatch(r"-?(0|[1-9][0-9]*)?(\.[0-9]+)?([eE][+-]?[0-9]+)?", value):
        raise ValueError
    if isinstance(value, bool | list | dict):
        raise ValueError
    number = _float(value)
    if not math.isfinite(number) or (isinstance(value, int) and int(number) != value):
        raise ValueError
    return number


def _float(value) -> float:
    """`float`, of a number or a text, infinite where that is too large.

    Raises ValueError or TypeError for what is no number.
    """
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _time(value) -> datetime:
    if not isinstance(value, str):
        raise ValueError
    return parse_time(value)


def _box(fields: dict) -> tuple[int, int, int, int] | None:
    if all(value in (None, "") for value in fields.values()):
        return None
    numbers = []
    for name, value in fields.items():
        try:
            number = math.nan if isinstance(value, bool) or value in (None, "") else _float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not abs(number) < 2**31:
            raise ValueError(
                f"field '{name}' is {repr(value)[:40]}: a box has the numbers x, y, w and h, in pixels"
            )
        numbers.append(round(number))
    if min(numbers[2:]) < 1:
        raise ValueError(f"the box is {numbers[2]} x {numbers[3]} pixels: w and h must be at least 1")
    return tuple(numbers)


def _check_name(path: Path, name: str) -> None:
    if name in RESERVED:
        raise UserError(f"{path}: column '{name}' has a name that the index needs: call it something else")


def _json_lines(path: Path) -> Iterator[tuple[int, dict | str]]:
    for number, line, fields in json_lines(path):
        if isinstance(fields, dict) and not (
            is_utf8(line) and is_utf8(json.dumps(fields, ensure_ascii=False))
        ):
            fields = "has half of a surrogate pair: mend its \\u escapes"
        yield number, fields


def _csv_lines(path: Path) -> Iterator[tuple[int, dict | str]]:
    def check(header):
        if "image" not in header:
            raise UserError(f"{path}: the first line has no column 'image': it must name the columns")
        for name in header:
            if header.count(name) > 1 or not name:
                raise UserError(f"{path}: the first line names column '{name}' twice or not at all: mend it")

    header, rows = csv_lines(path, check)
    for number, cells in rows:
        if isinstance(cells, str):
            yield number, cells
        else:
            yield number, {name: cell.strip() or None for name, cell in zip(header, cells, strict=True)}


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
