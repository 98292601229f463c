"""Reads a user's own data: `captions.jsonl` or `captions.csv`, one caption per line. See docs/own_data.md."""

import math
import os
from collections.abc import Hashable, Iterator

from tpr_jax.data.identity import normalize_id
from tpr_jax.data.image_paths import ImagePaths, is_valid_path
from tpr_jax.data.text_files import InvalidRecord, csv_lines, json_lines
from tpr_jax.errors import UserError

FILES = ("captions.jsonl", "captions.csv")
REQUIRED_FIELDS = ("image", "caption", "id", "split")
BOX_FIELDS = ("x", "y", "w", "h")
# Line breaks of word processors and terminals, which are white space in a caption.
LINE_BREAKS = dict.fromkeys(map(ord, "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), " ")


def read_rows(path: str) -> list[tuple[int, dict | InvalidRecord]]:
    """Reads a user's annotation and groups its lines by image.

    Lines with the same split, image file (however they write its path) and box are captions of one image.

    Returns:
      (number of the first line that names the image, from 1; its fields) of each image. The fields are those
      of a benchmark's record: `split`, `image` (path within the folder), `captions`, `id` (see
      `normalize_id`), and `box` (x, y, width, height in whole pixels) or None.

    Raises:
      UserError: the file cannot be read, or a CSV file lacks a column.
    """
    lines = _csv_fields(path) if path.endswith(".csv") else _json_fields(path)
    rows: list[tuple[int, dict | InvalidRecord]] = []
    first_rows: dict[Hashable, tuple[int, dict]] = {}
    image_paths, folder = ImagePaths(), os.path.dirname(path)
    for number, fields in lines:
        row = fields if isinstance(fields, InvalidRecord) else _parse_row(fields)
        if isinstance(row, InvalidRecord) or (key := _image_key(row, image_paths, folder)) is None:
            rows.append((number, row))
            continue
        first_number, first_row = first_rows.setdefault(key, (number, row))
        if first_row is row:
            rows.append((number, row))
        elif str(row["id"]) != str(first_row["id"]):
            reason = (
                f"has another id than line {first_number}, which names the same image: fix one of the two"
            )
            rows.append((number, InvalidRecord(reason)))
        else:
            first_row["captions"] += row["captions"]
    return rows


def _image_key(row: dict, image_paths: ImagePaths, folder: str):
    """Returns the key that the lines of one image share; None if the line does not name an image."""
    image = row["image"]
    if not isinstance(image, str) or not image or not is_valid_path(image):
        return None
    return image_paths.key(image_paths.find(folder, image)), row["box"], str(row["split"])


def _parse_row(fields: dict) -> dict | InvalidRecord:
    for field in REQUIRED_FIELDS:
        if field not in fields:
            return InvalidRecord(f"field '{field}' is missing")
    try:
        box = _parse_box(fields)
    except ValueError as error:
        return InvalidRecord(str(error))
    captions = fields["caption"] if isinstance(fields["caption"], list) else [fields["caption"]]
    split = fields["split"]
    return {
        "image": fields["image"],
        "captions": [text.translate(LINE_BREAKS) if isinstance(text, str) else text for text in captions],
        "id": normalize_id(fields["id"]),
        "split": split.strip() if isinstance(split, str) else split,
        "box": box,
    }


def _parse_box(fields: dict) -> tuple[int, int, int, int] | None:
    """Returns the box of a line in whole pixels, or None if it has none.

    Raises:
      ValueError: the box is not valid; the message is the reason.
    """
    values = [fields.get(name) for name in BOX_FIELDS]
    if all(value in (None, "") for value in values):
        return None
    x, y, width, height = (_parse_pixels(name, value) for name, value in zip(BOX_FIELDS, values, strict=True))
    if width < 1 or height < 1:
        raise ValueError(f"the box is {width} x {height} pixels: w and h must be at least 1")
    return x, y, width, height


def _parse_pixels(name: str, value) -> int:
    if value in (None, ""):
        raise ValueError(f"field '{name}' is missing: give all of {', '.join(BOX_FIELDS)}, or none")
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"field '{name}' is {value!r}: must be a number of pixels")
    return round(number)


def _json_fields(path: str) -> Iterator[tuple[int, dict | InvalidRecord]]:
    for number, _, fields in json_lines(path):
        if isinstance(fields, str):
            yield number, InvalidRecord(fields)
            continue
        stripped = {name.strip(): value for name, value in fields.items()}
        duplicate = len(stripped) < len(fields) and _first_duplicate([name.strip() for name in fields])
        yield (
            number,
            InvalidRecord(f"names field '{duplicate}' twice: leave one out") if duplicate else stripped,
        )


def _csv_fields(path: str) -> Iterator[tuple[int, dict | InvalidRecord]]:
    def check(header: list[str]) -> None:
        missing = [name for name in REQUIRED_FIELDS if name not in header]
        if missing:
            raise UserError(
                f"{path}: the first line has no column '{missing[0]}': it must name "
                f"{', '.join(REQUIRED_FIELDS)}"
            )
        if duplicate := _first_duplicate(header):
            raise UserError(f"{path}: the first line names column '{duplicate}' twice: rename or delete one")

    header, rows = csv_lines(path, check)
    # Ids are numbers only if all of them are written as numbers: 007 and 7 are two people.
    column = header.index("id")
    ids_are_integers = all(_is_integer(cells[column]) for _, cells in rows if not isinstance(cells, str))
    for number, cells in rows:
        if isinstance(cells, str):
            yield number, InvalidRecord(cells)
            continue
        fields = dict(zip(header, cells, strict=True))
        yield number, fields | ({"id": int(fields["id"])} if ids_are_integers else {})


def _first_duplicate(names: list[str]) -> str:
    """Returns the first name that is repeated, ignoring empty ones; '' if there is none."""
    return next((name for i, name in enumerate(names) if name and name in names[:i]), "")


def _is_integer(text: str) -> bool:
    try:
        return str(int(text)) == text
    except ValueError:
        return False
