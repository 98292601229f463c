"""Reads the boxes of a table, whose columns may give them in several forms, as pixels."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from tpr_jax.data.text_files import InvalidRecord
from tpr_jax.errors import UserError
from tpr_jax.utils.notices import print_once

Box = tuple[int, int, int, int]  # x, y, width, height in pixels
Numbers = tuple[float, float, float, float]  # of a line, in the order of its columns
BOX_COLUMNS = ("x", "y", "w", "h")

_Form = Literal["upper left corner and size", "two corners", "center and size"]
# The columns of each form, in lower case without blanks and punctuation.
_FORMS: tuple[tuple[_Form, tuple[str, str, str, str]], ...] = (
    ("upper left corner and size", BOX_COLUMNS),
    ("upper left corner and size", ("x", "y", "width", "height")),
    ("upper left corner and size", ("left", "top", "width", "height")),
    ("upper left corner and size", ("left", "top", "w", "h")),
    ("two corners", ("x1", "y1", "x2", "y2")),
    ("two corners", ("xmin", "ymin", "xmax", "ymax")),
    ("two corners", ("left", "top", "right", "bottom")),
    ("center and size", ("cx", "cy", "w", "h")),
    ("center and size", ("cx", "cy", "width", "height")),
    ("center and size", ("xcenter", "ycenter", "width", "height")),
)
_WHOLE_BOX_NAMES = ("bbox", "box", "boundingbox", "bndbox")
# The boxes of a photo that cannot be opened, which is reported when it is read, must still differ.
_SIZE_OF_UNREADABLE = (10_000, 10_000)
_ROUNDING = 0.01  # by which fractions may reach beyond the photo


class BoxLayout(NamedTuple):
    """The columns that give the boxes of a table, as the table names them, and their form."""

    form: _Form
    columns: tuple[str, ...]

    @property
    def is_default(self) -> bool:
        """Whether the columns are the documented ones."""
        return self.columns == BOX_COLUMNS


def find_layout(names: Iterable[str], table: str) -> BoxLayout | None:
    """Finds the columns that give the boxes; None if there are none.

    The documented columns go before any others, and count even if some of the four are missing.

    Args:
      names: the columns of the table.
      table: its path, for messages.

    Raises:
      UserError: one of the four columns is missing or there twice, or several sets of four are there.
    """
    names = list(names)
    default = BoxLayout("upper left corner and size", BOX_COLUMNS)
    if set(BOX_COLUMNS) <= set(names):
        return default
    written: dict[str, str] = {}
    for name in names:
        written.setdefault(_simplify(name), name)
    whole = [
        BoxLayout(form, tuple(written[column] for column in columns))
        for form, columns in _FORMS
        if set(columns) <= set(written)
    ]
    if len(whole) > 1:
        first, second = (", ".join(layout.columns) for layout in whole[:2])
        raise UserError(f"{table}: both {first} and {second} give a box: rename those that do not")
    if whole:
        _check_unique(names, whole[0], table)
        return whole[0]
    if not {*BOX_COLUMNS}.isdisjoint(names):
        return default
    _check_incomplete(written, table)
    return None


def _check_unique(names: Iterable[str], layout: BoxLayout, table: str) -> None:
    """Rejects a second column that is one of the layout's in other capitals or punctuation."""
    known = {_simplify(column): column for column in layout.columns}
    for name in names:
        column = known.get(_simplify(name), name)
        if column != name:
            raise UserError(f"{table}: '{column}' and '{name}' are one column of a box: rename or delete one")


def _check_incomplete(written: Mapping[str, str], table: str) -> None:
    """Rejects three of four columns, and tells that a column of whole boxes is not read.

    Args:
      written: simplified name -> name of the columns.
      table: the table's path.
    """
    for _, columns in _FORMS:
        missing = [column for column in columns if column not in written]
        if columns[0] in ("x1", "xmin") and len(missing) == 1:
            given = ", ".join(written[column] for column in columns if column in written)
            raise UserError(
                f"{table}: a box has four columns, but {given} has no {missing[0]}: add or rename it"
            )
    for column in _WHOLE_BOX_NAMES:
        if column in written:
            print_once(
                f"{table}: column '{written[column]}' is not read as a box: give its numbers in columns of "
                "their own, x, y, w, h (upper left corner and size) or x1, y1, x2, y2 (two corners)"
            )


def read_boxes(
    lines: Sequence[Mapping | None], table: str, size_of: Callable[[int], tuple[int, int] | None]
) -> tuple[BoxLayout | None, list[Box | InvalidRecord | None]]:
    """Reads the boxes of a table's lines; prints a note if their form is not the documented one.

    Args:
      lines: the fields of each line, None for a line without any.
      table: the table's path, for messages.
      size_of: returns width and height of the photo of the line with this index, None if it cannot be opened;
        called only if boxes are fractions.

    Returns:
      The columns of the boxes, and of each line: its box in pixels, None if it has none, or what is wrong.

    Raises:
      UserError: the columns or fractions have no certain meaning.
    """
    names = dict.fromkeys(name for fields in lines if fields is not None for name in fields)
    layout = find_layout(names, table)
    if layout is None:
        return None, [None] * len(lines)
    numbers = [None if fields is None else _read_numbers(fields, layout.columns) for fields in lines]
    _check_alike(lines, numbers, layout, table)
    boxes = [box for box in numbers if isinstance(box, tuple) and not isinstance(box, InvalidRecord)]
    fractions = bool(boxes) and all(map(_is_within_one, boxes)) and any(map(_is_fraction, boxes))
    if fractions and layout.form == "upper left corner and size":
        _check_corners(boxes, layout, table)
    if boxes and (fractions or not layout.is_default):
        unit = "as fractions of each photo's width and height" if fractions else "in pixels"
        print_once(f"{table}: boxes read from {', '.join(layout.columns)} as {layout.form}, {unit}")
    results: list[Box | InvalidRecord | None] = []
    for index, box in enumerate(numbers):
        if box is None or isinstance(box, InvalidRecord):
            results.append(box)
        elif fractions:
            results.append(_to_box(_scale(box, size_of(index) or _SIZE_OF_UNREADABLE), layout))
        elif _is_within_one(box) and _is_fraction(box):
            reason = "the box looks like fractions of the photo, but other lines have pixels: use one of them"
            results.append(InvalidRecord(reason))
        else:
            results.append(_to_box(box, layout))
    return layout, results


def _check_alike(
    lines: Sequence[Mapping | None], numbers: Sequence[object], layout: BoxLayout, table: str
) -> None:
    """Raises a UserError if a line without a box in the table's form has one in another form."""
    for index, (fields, box) in enumerate(zip(lines, numbers, strict=True), 1):
        if fields is None or box is not None:
            continue
        written = {_simplify(name): name for name, value in fields.items() if value not in (None, "")}
        for _, columns in _FORMS:
            if set(columns) <= set(written):
                other = ", ".join(written[column] for column in columns)
                raise UserError(
                    f"{table}: record {index} gives its box as {other}, but others as "
                    f"{', '.join(layout.columns)}: use the same names in all"
                )


def _simplify(name: str) -> str:
    """Returns a column's name in lower case without punctuation and a prefix such as `bbox_`."""
    words = re.sub(r"[\W_]+", " ", name.lower()).split()
    return "".join(words[1:] if words[0:1] in (["bbox"], ["box"], ["bb"]) and len(words) > 1 else words)


def _read_numbers(fields: Mapping, columns: Sequence[str]) -> Numbers | InvalidRecord | None:
    """Returns the four numbers of a line, None if it has none, or what is wrong with them."""
    values = [fields.get(name) for name in columns]
    if all(value in (None, "") for value in values):
        return None
    numbers: list[float] = []
    for name, value in zip(columns, values, strict=True):
        if value in (None, ""):
            return InvalidRecord(f"field '{name}' is missing: give all of {', '.join(columns)}, or none")
        number = _to_number(value)
        if not abs(number) < 2**31:
            return InvalidRecord(f"field '{name}' is {repr(value)[:40]}: must be a number of pixels")
        numbers.append(number)
    first, second, third, fourth = numbers
    return first, second, third, fourth


def _to_number(value) -> float:
    """Converts a value to a number, NaN if it is none.

    "412,5" is 412.5, as spreadsheets write it in much of Europe; "1,234" may be either of two numbers.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+,\d+\s*", value):
        is_ambiguous = re.fullmatch(r"\s*-?[1-9]\d{0,2},\d{3}\s*", value)
        value = math.nan if is_ambiguous else value.replace(",", ".")
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _is_within_one(box: Numbers) -> bool:
    return all(-_ROUNDING <= number <= 1 + _ROUNDING for number in box)


def _is_fraction(box: Numbers) -> bool:
    return any(number != round(number) for number in box)


def _check_corners(boxes: Sequence[Numbers], layout: BoxLayout, table: str) -> None:
    """Raises a UserError if boxes of fractions cannot begin at their first two numbers."""
    if any(x + w > 1 + _ROUNDING or y + h > 1 + _ROUNDING for x, y, w, h in boxes):
        x, y, w, h = layout.columns
        raise UserError(
            f"{table}: {', '.join(layout.columns)} are fractions of the photo, but some boxes reach beyond "
            f"it: if {x} and {y} are the center, rename them to cx and cy (with {w} and {h})"
        )


def _scale(box: Numbers, size: tuple[int, int]) -> Numbers:
    width, height = size
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height


def _to_box(box: Numbers, layout: BoxLayout) -> Box | InvalidRecord:
    """Converts four numbers in pixels to a box."""
    if layout.form == "two corners":
        left, top, right, bottom = map(round, box)
        x, y, width, height = left, top, right - left, bottom - top
        remedy = (
            f"{layout.columns[2]} and {layout.columns[3]} must be above {' and '.join(layout.columns[:2])}"
        )
    else:
        if layout.form == "center and size":
            box = (box[0] - box[2] / 2, box[1] - box[3] / 2, box[2], box[3])
        x, y, width, height = map(round, box)
        remedy = f"{layout.columns[2]} and {layout.columns[3]} must be at least 1"
    if min(width, height) < 1:
        return InvalidRecord(f"the box is {width} x {height} pixels: {remedy}")
    return x, y, width, height
