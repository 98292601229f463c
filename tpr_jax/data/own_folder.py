"""Own data: a folder with `captions.jsonl` or `captions.csv`, one caption a line. See docs/own_data.md."""

import math
from typing import NamedTuple

from tpr_jax.data.lines import csv_lines, json_lines
from tpr_jax.errors import UserError

FILES = ("captions.jsonl", "captions.csv")
NEEDED = ("image", "caption", "id", "split")
BOX = ("x", "y", "w", "h")


class Unusable(NamedTuple):
    """A line that cannot be used, and why."""

    reason: str


def read_rows(path: str) -> list[tuple[int, dict | Unusable]]:
    """The pictures of an own annotation: (number of the first line that names it, from 1; its fields).

    Lines about the same picture, and the same box where there are boxes, are its captions. The fields are
    those of a benchmark's record: `split`, `image` (a path within the folder), `captions`, `id`, and `box`
    (x, y, width, height in whole pixels) or None.

    Raises:
      UserError: the file cannot be read, or a CSV file has not all columns.
    """
    lines = _csv_lines(path) if path.endswith(".csv") else _json_lines(path)
    rows, pictures = [], {}
    for number, fields in lines:
        row = fields if isinstance(fields, Unusable) else _row(fields)
        key = None if isinstance(row, Unusable) else _key(row)
        first, known = pictures.get(key, (0, None))
        if key is None or known is None:
            rows.append((number, row))
            pictures[key] = (number, row)
        elif (row["split"], row["id"]) != (known["split"], known["id"]):
            reason = f"has another split or id than line {first}, which names the same picture"
            rows.append((number, Unusable(reason)))
        else:
            known["captions"] += row["captions"]
    return rows


def _key(row: dict):
    return (row["image"], row["box"]) if isinstance(row["image"], str) else None


def _row(fields: dict) -> dict | Unusable:
    for field in NEEDED:
        if field not in fields:
            return Unusable(f"field '{field}' is missing")
    try:
        box = _box(fields)
    except ValueError as error:
        return Unusable(str(error))
    captions = fields["caption"] if isinstance(fields["caption"], list) else [fields["caption"]]
    return {
        "image": fields["image"],
        "captions": list(captions),
        "id": fields["id"],
        "split": fields["split"],
        "box": box,
    }


def _box(fields: dict) -> tuple[int, int, int, int] | None:
    """The box of a line in whole pixels, None where it has none; raises ValueError with what is wrong."""
    values = [fields.get(name) for name in BOX]
    if all(value in (None, "") for value in values):
        return None
    numbers = []
    for name, value in zip(BOX, values, strict=True):
        if value in (None, ""):
            raise ValueError(f"field '{name}' is missing: a box has {', '.join(BOX)}, or a line has no box")
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"field '{name}' is {value!r}: must be a number of pixels")
        numbers.append(round(number))
    if numbers[2] < 1 or numbers[3] < 1:
        raise ValueError(f"the box is {numbers[2]} x {numbers[3]} pixels: w and h must be at least 1")
    return tuple(numbers)


def _json_lines(path: str):
    for number, _, fields in json_lines(path):
        yield number, Unusable(fields) if isinstance(fields, str) else fields


def _csv_lines(path: str):
    def check(header):
        missing = [name for name in NEEDED if name not in header]
        if missing:
            raise UserError(
                f"{path}: the first line has no column '{missing[0]}': it must name {', '.join(NEEDED)}"
            )

    header, rows = csv_lines(path, check)
    # Ids are numbers only where all of them are, as written: 007 and 7 are two people's.
    column = header.index("id")
    whole = all(_is_whole(cells[column]) for _, cells in rows if not isinstance(cells, str))
    for number, cells in rows:
        if isinstance(cells, str):
            yield number, Unusable(cells)
            continue
        fields = dict(zip(header, cells, strict=True))
        yield number, fields | ({"id": int(fields["id"])} if whole else {})


def _is_whole(text: str) -> bool:
    try:
        return str(int(text)) == text
    except ValueError:
        return False
