"""Reads a user's own data: `captions.jsonl` or `captions.csv`, one caption per line. See docs/own_data.md."""

import functools
import os
import shlex
from collections.abc import Hashable, Mapping

from tpr_jax.data.boxes import BOX_COLUMNS, read_boxes
from tpr_jax.data.id_checks import why_id_invalid
from tpr_jax.data.identity import normalize_id
from tpr_jax.data.image_paths import ImagePaths, is_valid_path
from tpr_jax.data.images.size import upright_size
from tpr_jax.data.people_splits import SPLIT_NAMES, SPLITS_FILE, find_people_splits, read_people_splits
from tpr_jax.data.text_files import InvalidRecord, csv_lines, first_duplicate, json_lines, rename_known
from tpr_jax.errors import UserError
from tpr_jax.utils.lookalikes import describe_lookalike, skeleton
from tpr_jax.utils.notices import print_once
from tpr_jax.utils.plural import counted

FILES = ("captions.jsonl", "captions.csv")
REQUIRED_FIELDS = ("image", "caption", "id", "split")
_KNOWN_FIELDS = (*REQUIRED_FIELDS, *BOX_COLUMNS)
# Line breaks of word processors and terminals, which are white space in a caption.
LINE_BREAKS = dict.fromkeys(map(ord, "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), " ")

_Lines = list[tuple[int, dict | InvalidRecord]]


def read_rows(path: str) -> list[tuple[int, dict | InvalidRecord]]:
    """Reads a user's annotation and groups its lines by image.

    Lines with the same split, image file (however they write its path) and box are captions of one image.

    Returns:
      (number of the first line that names the image, from 1; its fields) of each image. The fields are those
      of a benchmark's record: `split`, `image` (path within the folder), `captions`, `id` (see
      `normalize_id`), `box` (x, y, width, height in whole pixels) or None, and `lines`: (line, item) of each
      caption, for messages.

    A file without splits takes those of its people from `people_splits.SPLITS_FILE` beside it.

    Raises:
      UserError: the file cannot be read, lacks a column or the splits, or has boxes of no certain meaning.
    """
    rows, repeated = _group(path)
    if repeated:
        lines_repeat = counted(len(repeated), "line repeats an earlier one", "lines repeat earlier ones")
        print_once(f"{path}: {lines_repeat}, from line {repeated[0][0]} on: their captions count twice")
    return rows


def repeated_lines(path: str) -> list[str]:
    """Returns a line for each line of an annotation that only repeats earlier ones.

    Raises:
      UserError: as `read_rows`.
    """
    return [
        f"{path}: line {number}: repeats captions of the image of line {first}, which count twice"
        for number, first in _group(path)[1]
    ]


def unread_splits(path: str) -> list[str]:
    """Returns a line if there are two sources of splits beside or in an annotation: which one is not read.

    Raises:
      UserError: the annotation cannot be read, or there are several files of splits.
    """
    return _describe_unread_splits(_read_lines(path), path)


def _describe_unread_splits(lines: _Lines, path: str) -> list[str]:
    splits = find_people_splits(os.path.dirname(path))
    if splits is None:
        return []
    file = os.path.basename(splits)
    if _has_splits(lines):
        return [f"{splits}: is not read, since {os.path.basename(path)} has splits: keep one of them"]
    if column := _find_split_column(lines):
        return [
            f"{path}: column '{column}' is not read, since {file} has the splits: if it has them, rename "
            f"it to 'split' and delete {file}"
        ]
    return []


def _group(path: str) -> tuple[_Lines, list[tuple[int, int]]]:
    """Returns the lines grouped by image, and (number, first line of its image) of repetitions."""
    lines = _read_lines(path)
    for note in _describe_unread_splits(lines, path):
        print_once(note)
    lines = _with_splits(lines, path)
    rows: _Lines = []
    first_rows: dict[Hashable, tuple[int, dict]] = {}
    repeated: list[tuple[int, int]] = []
    image_paths, folder = ImagePaths(), os.path.dirname(path)
    boxes = _read_boxes(lines, path, image_paths)
    for (number, fields), box in zip(lines, boxes, strict=True):
        row = fields if isinstance(fields, InvalidRecord) else _parse_row(number, fields, box)
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
            if all(caption in first_row["captions"] for caption in row["captions"]):
                repeated.append((number, first_number))
            first_row["captions"] += row["captions"]
            first_row["lines"] += row["lines"]
    return rows, repeated


def _image_key(row: dict, image_paths: ImagePaths, folder: str):
    """Returns the key that the lines of one image share; None if the line does not name an image."""
    image = row["image"]
    if not isinstance(image, str) or not image or not is_valid_path(image):
        return None
    return image_paths.key(image_paths.find(folder, image)), row["box"], str(row["split"])


def read_ids(path: str) -> list[str]:
    """Returns the people of an annotation without splits, each once, in the form in which ids are compared.

    Raises:
      UserError: the annotation cannot be read, has splits, or has an id that cannot be used.
    """
    lines = _read_lines(path)
    if _has_splits(lines):
        raise UserError(f"{path}: has a split already: delete its column 'split' to divide the people again")
    people: dict[str, None] = {}
    for number, fields in lines:
        if isinstance(fields, InvalidRecord) or fields.get("id") is None or _person(fields) == "":
            continue
        if why := _why_person_invalid(fields):
            raise UserError(f"{path}: line {number}: {why}")
        people[_person(fields)] = None
    return list(people)


def _read_lines(path: str) -> _Lines:
    return _csv_fields(path) if path.lower().endswith(".csv") else _json_fields(path)


def _has_splits(lines: _Lines) -> bool:
    return any(isinstance(fields, dict) and fields.get("split") not in (None, "") for _, fields in lines)


def _find_split_column(lines: _Lines) -> str:
    """Returns a column that seems to have the splits under another name, by its name or values; or ''."""
    records = [fields for _, fields in lines if isinstance(fields, dict)]
    for name in dict.fromkeys(name for fields in records for name in fields if name not in _KNOWN_FIELDS):
        values = {_normalize_split(fields.get(name)) for fields in records if _is_name(fields.get(name))}
        if skeleton(name) in ("split", "splits") or (values and values <= set(SPLIT_NAMES)):
            return name
    return ""


def _is_name(value) -> bool:
    return isinstance(value, str) and value != ""


def _has_person(fields: Mapping) -> bool:
    return not _why_person_invalid(fields)


def _why_person_invalid(fields: Mapping) -> str:
    return why_id_invalid(normalize_id(fields.get("id")), is_custom=True)


def _person(fields: Mapping) -> str:
    return str(normalize_id(fields["id"]))


def _with_splits(lines: _Lines, path: str) -> _Lines:
    """Returns the lines with the splits of their people, if they have none of their own."""
    if _has_splits(lines) or not any(isinstance(fields, dict) for _, fields in lines):
        return lines
    folder = os.path.dirname(path)
    splits = read_people_splits(folder)
    command = (
        f"`python -m tpr_jax.data.check folder --data_dir {shlex.quote(folder or '.')} --split 80/10/10`"
    )
    if splits is None:
        column = _find_split_column(lines)
        rename = f"rename '{column}' if it has the splits, or " if column else ""
        raise UserError(
            f"{path}: has no column 'split': {rename}add it, with train, val or test, or run {command}, "
            "which divides the people"
        )
    completed: _Lines = []
    for number, fields in lines:
        if isinstance(fields, dict):
            # A line without a person is invalid in any split.
            split = splits.get(_person(fields)) if _has_person(fields) else SPLIT_NAMES[0]
            reason = f"person {fields.get('id')} is not in {SPLITS_FILE}: {command} adds new people"
            fields = InvalidRecord(reason) if split is None else fields | {"split": split}
        completed.append((number, fields))
    return completed


def _read_boxes(lines: _Lines, path: str, image_paths: ImagePaths) -> list:
    """Returns the box of each line, None if it has none, or an InvalidRecord."""
    folder, size_of_file = os.path.dirname(path), functools.cache(upright_size)

    def size_of(index: int) -> tuple[int, int] | None:
        fields = lines[index][1]
        name = fields.get("image") if isinstance(fields, dict) else None
        is_usable = isinstance(name, str) and is_valid_path(name)
        return size_of_file(image_paths.find(folder, name)) if is_usable else None

    usable = [fields if isinstance(fields, dict) else None for _, fields in lines]
    return read_boxes(usable, path, size_of)[1]


def _parse_row(number: int, fields: dict, box) -> dict | InvalidRecord:
    for field in REQUIRED_FIELDS:
        if field not in fields:
            return InvalidRecord(f"field '{field}' is missing")
    if isinstance(box, InvalidRecord):
        return box
    captions = fields["caption"] if isinstance(fields["caption"], list) else [fields["caption"]]
    if not captions:
        return InvalidRecord("field 'caption' must be a text or a list of at least one")
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            return InvalidRecord(f"field 'caption', item {index} is not a string: {caption!r}")
    return {
        "image": fields["image"],
        "captions": [caption.translate(LINE_BREAKS) for caption in captions],
        "lines": [(number, index) for index in range(len(captions))],
        "id": normalize_id(fields["id"]),
        "split": _normalize_split(fields["split"]),
        "box": box,
    }


def _normalize_split(split):
    """Returns a split without surrounding blanks, and in lower case if it is one then."""
    if not isinstance(split, str):
        return split
    split = split.strip()
    return split.lower() if split.lower() in SPLIT_NAMES else split


def _json_fields(path: str) -> _Lines:
    lines: _Lines = []
    for number, _, fields in json_lines(path):
        if isinstance(fields, str):
            lines.append((number, InvalidRecord(fields)))
            continue
        names = rename_known([name.strip() for name in fields], _KNOWN_FIELDS)
        if duplicate := first_duplicate([name for name in names if name]):
            lines.append((number, InvalidRecord(f"names field '{duplicate}' twice: leave one out")))
        else:
            lines.append((number, dict(zip(names, fields.values(), strict=True))))
    return lines


def _csv_fields(path: str) -> _Lines:
    def check(header: list[str]) -> None:
        header = rename_known(header, _KNOWN_FIELDS)
        missing = [name for name in REQUIRED_FIELDS if name not in header and name != "split"]
        if missing:
            raise UserError(
                f"{path}: the first line has no column '{missing[0]}': it must name "
                f"{', '.join(REQUIRED_FIELDS)}{describe_lookalike(missing[0], header)}"
            )
        if duplicate := first_duplicate([name for name in header if name]):
            raise UserError(f"{path}: the first line names column '{duplicate}' twice: rename or delete one")

    header, rows = csv_lines(path, check)
    header = rename_known(header, _KNOWN_FIELDS)
    # Ids are numbers only if all of them are written as numbers: 007 and 7 are two people.
    column = header.index("id")
    ids_are_integers = all(_is_integer(cells[column]) for _, cells in rows if not isinstance(cells, str))
    lines: _Lines = []
    for number, cells in rows:
        if isinstance(cells, str):
            lines.append((number, InvalidRecord(cells)))
            continue
        fields = dict(zip(header, cells, strict=True))
        lines.append((number, fields | ({"id": int(fields["id"])} if ids_are_integers else {})))
    return lines


def _is_integer(text: str) -> bool:
    try:
        return str(int(text)) == text
    except ValueError:
        return False
