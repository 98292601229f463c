"""Own data: a folder with `captions.jsonl` or `captions.csv`, one caption a line. See docs/own_data.md."""

import math
import os
from typing import NamedTuple

from tpr_jax.data.identity import identity
from tpr_jax.data.photos import Photos, is_path
from tpr_jax.data.text_files import csv_lines, json_lines
from tpr_jax.errors import UserError

FILES = ("captions.jsonl", "captions.csv")
NEEDED = ("image", "caption", "id", "split")
BOX = ("x", "y", "w", "h")
# What word processors and terminals break lines with; in a caption it is white space.
BREAKS = dict.fromkeys(map(ord, "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), " ")


class Unusable(NamedTuple):
    """A line that cannot be used, and why."""

    reason: str


def read_rows(path: str) -> list[tuple[int, dict | Unusable]]:
    """The pictures of an own annotation: (number of the first line that names it, from 1; its fields).

    Lines of a split about the same photo, however they write its path, and the same box where there are
    boxes, are its captions. The fields are those of a benchmark's record: `split`, `image` (a path within the
    folder), `captions`, `id` (see `identity`), and `box` (x, y, width, height in whole pixels) or None.

    Raises:
      UserError: the file cannot be read, or a CSV file has not all columns.
    """
    lines = _csv_lines(path) if path.endswith(".csv") else _json_lines(path)
    rows, pictures, photos, folder = [], {}, Photos(), os.path.dirname(path)
    for number, fields in lines:
        row = fields if isinstance(fields, Unusable) else _row(fields)
        key = None if isinstance(row, Unusable) else _key(row, photos, folder)
        first, known = pictures.get(key, (0, None))
        if key is None or known is None:
            rows.append((number, row))
            pictures[key] = (number, row)
        elif str(row["id"]) != str(known["id"]):
            reason = f"has another id than line {first}, which names the same picture: fix one of the two"
            rows.append((number, Unusable(reason)))
        else:
            known["captions"] += row["captions"]
    return rows


def _key(row: dict, photos: Photos, folder: str):
    """What the lines of one picture share; None where the line names no photo."""
    image = row["image"]
    if not isinstance(image, str) or not image or not is_path(image):
        return None
    return photos.key(photos.path(folder, image)), row["box"], str(row["split"])


def _row(fields: dict) -> dict | Unusable:
    for field in NEEDED:
        if field not in fields:
            return Unusable(f"field '{field}' is missing")
    try:
        box = _box(fields)
    except ValueError as error:
        return Unusable(str(error))
    captions = fields["caption"] if isinstance(fields["caption"], list) else [fields["caption"]]
    split = fields["split"]
    return {
        "image": fields["image"],
        "captions": [text.translate(BREAKS) if isinstance(text, str) else text for text in captions],
        "id": identity(fields["id"]),
        "split": split.strip() if isinstance(split, str) else split,
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
        if isinstance(fields, str):
            yield number, Unusable(fields)
            continue
        stripped = {name.strip(): value for name, value in fields.items()}
        twice = len(stripped) < len(fields) and _twice([name.strip() for name in fields])
        yield number, Unusable(f"names field '{twice}' twice: leave one out") if twice else stripped


def _csv_lines(path: str):
    def check(header):
        missing = [name for name in NEEDED if name not in header]
        if missing:
            raise UserError(
                f"{path}: the first line has no column '{missing[0]}': it must name {', '.join(NEEDED)}"
            )
        if twice := _twice(header):
            raise UserError(f"{path}: the first line names column '{twice}' twice: rename or delete one")

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


def _twice(names: list[str]) -> str:
    """The first name that is there twice, but for columns without one; empty: none is."""
    return next((name for i, name in enumerate(names) if name and name in names[:i]), "")


def _is_whole(text: str) -> bool:
    try:
        return str(int(text)) == text
    except ValueError:
        return False
