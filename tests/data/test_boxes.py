"""Boxes of tables: the columns that give them, their units, and what is told or rejected."""

import pytest

from tpr_jax.data.boxes import find_layout, read_boxes
from tpr_jax.data.text_files import InvalidRecord
from tpr_jax.errors import UserError


def boxes(columns, *rows, size=(200, 100), name="t.csv"):
    """Returns the boxes of rows of numbers; for an invalid row, the reason."""
    lines = [dict(zip(columns.split(","), row, strict=True)) for row in rows]
    found = read_boxes(lines, name, lambda index: size)[1]
    return [box.reason if isinstance(box, InvalidRecord) else box for box in found]


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("x,y,w,h", (10, 20, 30, 40)),
        ("x,y,width,height", (10, 20, 30, 40)),
        ("left,top,width,height", (10, 20, 30, 40)),
        ("bb_left,bb_top,bb_width,bb_height", (10, 20, 30, 40)),
        ("bbox_x,bbox_y,bbox_w,bbox_h", (10, 20, 30, 40)),
        ("x1,y1,x2,y2", (10, 20, 40, 60)),
        ("X1,Y1,X2,Y2", ("10", "20", "40", "60")),
        ("xmin,ymin,xmax,ymax", (10, 20, 40, 60)),
        ("x_min,y_min,x_max,y_max", (10, 20, 40, 60)),
        ("left,top,right,bottom", (10, 20, 40, 60)),
        ("y2,x2,y1,x1", (60, 40, 20, 10)),
        ("cx,cy,w,h", (25, 40, 30, 40)),
        ("x_center,y_center,width,height", (25, 40, 30, 40)),
    ],
)
def test_columns_of_every_form(columns, row):
    assert boxes(columns, row) == [(10, 20, 30, 40)]


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("x,y,w,h", (0.05, 0.2, 0.15, 0.4)),
        ("x1,y1,x2,y2", ("0.05", "0,2", "0.2", "0,6")),
        ("cx,cy,w,h", (0.125, 0.4, 0.15, 0.4)),
    ],
)
def test_fractions_of_the_photo(columns, row, capsys):
    whole = (0, 0, 1, 1) if columns != "cx,cy,w,h" else (0.5, 0.5, 1, 1)
    assert boxes(columns, row, whole, (None,) * 4, name=columns) == [(10, 20, 30, 40), (0, 0, 200, 100), None]
    assert "as fractions of each photo's width and height" in capsys.readouterr().err


def test_only_the_documented_form_is_read_without_a_note(capsys):
    boxes("x,y,w,h", (10, 20, 30, 40), name="plain")
    assert capsys.readouterr().err == ""
    boxes("left,top,width,height", (10, 20, 30, 40), name="other")
    told = "note: other: boxes read from left, top, width, height as upper left corner and size, in pixels\n"
    assert capsys.readouterr().err == told


def test_a_table_of_pixels_with_a_line_of_fractions():
    pixels, fractions = boxes("x,y,w,h", (10, 20, 30, 40), (0.1, 0.2, 0.5, 0.5))
    assert pixels == (10, 20, 30, 40) and "looks like fractions of the photo" in fractions
    assert boxes("x,y,w,h", (0, 0, 1, 1)) == [(0, 0, 1, 1)]  # one pixel


def test_fractions_that_may_be_centers_are_rejected():
    with pytest.raises(UserError, match="if x and y are the center, rename them to cx and cy"):
        boxes("x,y,w,h", (0.9, 0.5, 0.2, 0.4))


def test_the_documented_columns_go_first():
    names = ["x", "y", "w", "h", "x1", "y1", "x2", "y2"]
    assert find_layout(names, "t").columns == ("x", "y", "w", "h")
    assert find_layout(["x", "camera"], "t").columns == ("x", "y", "w", "h")  # each line says what is missing
    assert find_layout(["xmin", "ymin", "xmax", "ymax", "width", "height"], "t").columns[0] == "xmin"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("x1,y1,x2,y2,left,top,width,height", "both left, top, width, height and x1, y1, x2, y2 give a box"),
        ("X1,Y1,X2", "X1, Y1, X2 has no y2: add or rename it"),
        ("xmin,ymax,xmax", "xmin, xmax, ymax has no ymin"),
    ],
)
def test_rejects_columns_of_no_certain_meaning(names, told):
    with pytest.raises(UserError, match=told):
        find_layout(names.split(","), "t.csv")


def test_other_columns_are_none():
    assert find_layout(["top", "bottom", "width", "height", "camera"], "t") is None
    assert read_boxes([{"camera": 1}, None], "t", lambda index: None) == (None, [None, None])


def test_tells_that_a_list_is_not_read(capsys):
    assert find_layout(["image", "BBox"], "list.csv") is None
    assert "list.csv: column 'BBox' is not read as a box: give its numbers in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (("412,5", "1", "5,25", "7"), (412, 1, 5, 7)),
        (("1,234", "1", "5", "5"), "field 'x' is '1,234': must be a number of pixels"),
        (("a", "1", "5", "5"), "field 'x' is 'a': must be a number of pixels"),
        ((True, 1, 5, 5), "field 'x' is True: must be a number of pixels"),
        ((10**400, 1, 5, 5), f"field 'x' is {'1' + '0' * 39}: must be a number of pixels"),
        ((1, 2, 3, ""), "field 'h' is missing: give all of x, y, w, h, or none"),
        ((1, 2, 3, 0), "the box is 3 x 0 pixels: w and h must be at least 1"),
    ],
)
def test_numbers(row, told):
    assert boxes("x,y,w,h", row) == [told]


@pytest.mark.parametrize(
    "second", [{"left": 1, "top": 1, "width": 9, "height": 9}, {"x1": 1, "y1": 1, "x2": 9, "y2": 9}]
)
def test_lines_whose_boxes_have_other_names_are_told(second):
    first = {"x": 1, "y": 1, "w": 9, "h": 9}
    with pytest.raises(UserError) as error:
        read_boxes([first, {"image": "b.png"}, second], "t.jsonl", lambda index: None)
    names = ", ".join(second)
    assert str(error.value) == (
        f"t.jsonl: record 3 gives its box as {names}, but others as x, y, w, h: use the same names in all"
    )
    # A line with a box in the table's form may have more columns, and a line without one none.
    read_boxes([first, first | second, {"left": 1}], "t.jsonl", lambda index: None)


@pytest.mark.parametrize("again", ["X1", "x_1", "bbox_x1"])
def test_rejects_a_column_of_a_box_repeated_in_other_capitals(again):
    with pytest.raises(UserError, match=f"^t.csv: 'x1' and '{again}' are one column of a box: rename or del"):
        find_layout(["x1", "y1", "x2", "y2", again], "t.csv")
