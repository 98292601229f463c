"""Galleries from tables and folders: photos, their order and columns, and what is left out."""

import json
import os
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests import search_galleries
from tpr_jax.errors import UserError
from tpr_jax.search.index.build import build
from tpr_jax.search.index.gallery import find_gallery
from tpr_jax.search.index.table import to_arrow
from tpr_jax.search.query.columns import describe_columns
from tpr_jax.search.query.search import open_searcher, search


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        (["3", "12", None, "-4"], pa.int64(), [3, 12, None, -4]),
        (["3", "1.5", "-1e-3", ".5"], pa.float64(), [3.0, 1.5, -0.001, 0.5]),
        (["007", "7"], pa.string(), ["007", "7"]),
        (["3", "gate"], pa.string(), ["3", "gate"]),
        (["nan", "1"], pa.string(), ["nan", "1"]),
        ([3, 4.5], pa.float64(), [3.0, 4.5]),
        ([True, None], pa.bool_(), [True, None]),
        ([True, 3], pa.string(), ["true", "3"]),
        (["true", None, "false"], pa.bool_(), [True, None, False]),
        (["TRUE", "False"], pa.bool_(), [True, False]),
        ([True, "false"], pa.bool_(), [True, False]),
        (["True", "maybe"], pa.string(), ["True", "maybe"]),
        (["true", "1"], pa.string(), ["true", "1"]),
        (["1", "0"], pa.int64(), [1, 0]),
        (["20231127153000123456", "20231127153000123457"], pa.string(), 2),
        (["20231127153000123456", "7"], pa.string(), 2),
        (["20231127153000123456", "1.5"], pa.string(), 2),
        (["9223372036854775807", "-1"], pa.int64(), [2**63 - 1, -1]),
        (["9223372036854775808"], pa.string(), 1),
        (["9007199254740993", "0.5"], pa.string(), 2),
        (["9007199254740992", "0.5"], pa.float64(), [2.0**53, 0.5]),
        ([2**70 + 1, 1], pa.string(), [str(2**70 + 1), "1"]),
        ([10**400, 0.5], pa.string(), [str(10**400), "0.5"]),
        (["1e400", "1"], pa.string(), ["1e400", "1"]),
        (["1\u0662", "3"], pa.string(), ["1\u0662", "3"]),
        (["0001-01-01T00:00+14:00"], pa.string(), 1),
        ([{"a": 1}, [2]], pa.string(), ['{"a": 1}', "[2]"]),
        ([2**70, 1], pa.float64(), [2.0**70, 1.0]),
        (["2024-05-01", None], pa.timestamp("us"), [datetime(2024, 5, 1), None]),
        (
            ["2024-05-01T10:00:00+02:00"],
            pa.timestamp("us", tz="UTC"),
            [datetime(2024, 5, 1, 8, tzinfo=UTC)],
        ),
        (["2024-05-01", "2024-05-01T10:00Z"], pa.string(), ["2024-05-01", "2024-05-01T10:00Z"]),
        (["20240501", "2024-05-01"], pa.string(), ["20240501", "2024-05-01"]),
        ([None, None], None, [None, None]),
    ],
)
def test_column_types(values, kind, found):
    array = to_arrow(values)
    assert array.to_pylist() == (values if isinstance(found, int) else found)
    assert kind is None or array.type == kind


def test_finds_photos_in_a_folder(tmp_path):
    for name in (
        "b/2.JPG",
        "b/1.png",
        "a.jpeg",
        "notes.txt",
        ".hidden.jpg",
        ".git/x.jpg",
        "index/3.jpg",
        "ä ö.webp",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    os.symlink(tmp_path, tmp_path / "b" / "round")
    gallery = find_gallery(tmp_path, leave_out=tmp_path / "index")
    assert [photo.path for photo in gallery.photos] == ["a.jpeg", "b/1.png", "b/2.JPG", "ä ö.webp"]
    assert gallery.skipped == [] and gallery.root == tmp_path.resolve()


def test_skips_a_name_that_is_not_utf8(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb"):
        pass
    gallery = find_gallery(tmp_path)
    assert [photo.path for photo in gallery.photos] == ["a.jpg"]
    assert gallery.skipped == [("caf\\xe9.jpg", "its name is not UTF-8: rename it")]


CSV = """image,x,y,w,h,camera,time,note
a.jpg,1,2,30,40,3,2024-05-01 10:00,"red, long"
a.jpg,50,2,30,40,3,2024-05-01 10:01,
sub/b.jpg,,,,,4,2024-05-02,x
a.jpg,1,2,30,40,9,2024-05-01,again
c.jpg,1,2,,40,3,,
c.jpg,1,2,0,40,3,,
c.jpg,1,2
,1,2,3,4,5,,
"""


def test_reads_a_csv_with_boxes_and_columns(tmp_path):
    path = tmp_path / "photos.csv"
    path.write_text(CSV)
    gallery = find_gallery(path)
    assert [photo.key for photo in gallery.photos] == [
        ("a.jpg", (1, 2, 30, 40)),
        ("a.jpg", (50, 2, 30, 40)),
        ("sub/b.jpg", None),
    ]
    assert gallery.photos[0].columns == {"camera": "3", "time": "2024-05-01 10:00", "note": "red, long"}
    assert gallery.photos[1].columns["note"] is None
    reasons = dict(gallery.skipped)
    assert list(reasons) == [f"photos.csv: line {n}" for n in (6, 7, 8, 9, 5)]
    assert "field 'w'" in reasons["photos.csv: line 6"] and "0 x 40" in reasons["photos.csv: line 7"]
    assert "3 fields" in reasons["photos.csv: line 8"] and "'image'" in reasons["photos.csv: line 9"]
    assert reasons["photos.csv: line 5"] == "has the same image and box as line 2"


def test_reads_a_jsonl(tmp_path):
    lines = [
        {"image": "a.jpg", "camera": 3, "x": 1, "y": 2, "w": 3.4, "h": 4},
        [1],
        {"camera": 1},
        {"image": "b"},
    ]
    path = tmp_path / "photos.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n{\n\n" + r'{"image": "c", "n": "\ud800"}')
    gallery = find_gallery(path)
    assert [(p.path, p.box, p.columns) for p in gallery.photos] == [
        ("a.jpg", (1, 2, 3, 4), {"camera": 3}),
        ("b", None, {}),
    ]
    assert [where.split()[-1] for where, _ in gallery.skipped] == ["2", "3", "5", "7"]


def test_rejects_sources_that_are_not_a_gallery(tmp_path, monkeypatch):
    def error_of(path):
        with pytest.raises(UserError) as error:
            find_gallery(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("")
    (tmp_path / "no_image.csv").write_text("path,camera\na.jpg,3\n")
    (tmp_path / "twice.csv").write_text("image,camera,camera\n")
    (tmp_path / "reserved.csv").write_text("image,score\na.jpg,3\n")
    (tmp_path / "mac.csv").write_bytes("image,né\n".encode("mac-roman"))
    (tmp_path / "look.csv").write_text("im\u0430ge\na.jpg\n", encoding="utf-8")
    (tmp_path / "book.xlsx").write_text("")
    (tmp_path / "bare.csv").write_text("image\n")
    assert "no such folder" in error_of(tmp_path / "nowhere")
    assert "has no photos; looked for" in error_of(tmp_path / "empty")
    assert "neither a folder" in error_of(tmp_path / "x.txt")
    (tmp_path / "gate.AVI").write_bytes(b"RIFF")
    assert error_of(tmp_path / "gate.AVI").endswith("; add --detect to find the people in a video")
    assert "no column 'image', but path, camera" in error_of(tmp_path / "no_image.csv")
    assert "'camera' twice" in error_of(tmp_path / "twice.csv")
    assert "column 'score'" in error_of(tmp_path / "reserved.csv")
    assert "not UTF-8" in error_of(tmp_path / "mac.csv")
    assert "'im\u0430ge' is there, which differs: it has U+0430" in error_of(tmp_path / "look.csv")
    assert error_of(tmp_path / "book.xlsx").endswith("; save it as CSV")
    assert "has no usable lines" in error_of(tmp_path / "bare.csv")


def test_a_folder_without_read_permission(tmp_path, monkeypatch):
    """Patches the system call, because root may read everything."""
    for name in ("open/a.jpg", "closed/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    gallery = find_gallery(tmp_path)
    assert [photo.path for photo in gallery.photos] == ["open/a.jpg"]
    assert gallery.skipped == [("closed", "the folder cannot be read (Permission denied)")]
    with pytest.raises(UserError, match=r"closed: cannot be read \(Permission denied\); check the folder"):
        find_gallery(tmp_path / "closed")


def table_of(tmp_path, text, name="photos.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    gallery = find_gallery(path)
    return [(photo.path, dict(photo.columns)) for photo in gallery.photos], gallery.skipped


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_unusual_line_breaks_within_a_cell(tmp_path, mark):
    rows, skipped = table_of(tmp_path, f"image,note\na.jpg,one{mark}two\nb.jpg,{mark}three\n")
    assert skipped == []
    assert rows == [("a.jpg", {"note": f"one{mark}two"}), ("b.jpg", {"note": "three"})]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_endings_and_a_byte_order_mark(tmp_path, end):
    text = end.join(["\ufeffimage,night", "a.jpg,true", "b.jpg,false", ""])
    assert table_of(tmp_path, text) == ([("a.jpg", {"night": "true"}), ("b.jpg", {"night": "false"})], [])


def test_strips_whitespace_around_names_and_cells(tmp_path):
    text = " image , camera,\tnote\n a.jpg , 3 ,  \n\tb.jpg,4 ,\u00a0x\u2003\n"
    rows, skipped = table_of(tmp_path, text)
    assert rows == [("a.jpg", {"camera": "3", "note": None}), ("b.jpg", {"camera": "4", "note": "x"})]
    assert skipped == []


@pytest.mark.parametrize(
    "header", ["image,camera,camera", "image, camera ,camera", "image,image,camera", "image,x,x"]
)
def test_rejects_a_repeated_column(tmp_path, header):
    twice = next(name for name in ("camera", "image", "x") if header.count(name) == 2)
    with pytest.raises(UserError, match=f"names column '{twice}' twice"):
        table_of(tmp_path, f"{header}\na.jpg,1,2\n")


def test_skips_impossible_boxes(tmp_path):
    lines = [
        {"image": "a.jpg", "x": 10**400, "y": 0, "w": 1, "h": 1},
        {"image": "b.jpg", "x": "1e999", "y": 0},
    ]
    lines.append({"image": "c.jpg", "x": 1, "y": 2, "w": 3, "h": 4})
    rows, skipped = table_of(tmp_path, "\n".join(map(json.dumps, lines)), "photos.jsonl")
    assert [path for path, _ in rows] == ["c.jpg"] and len(skipped) == 2
    assert all("field 'x' is" in why and "\n" not in why for _, why in skipped)


def test_a_boolean_column_is_a_filter(tiny, tmp_path):
    search_galleries.photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "p.csv").write_text(
        "image,night,id\n000.png,TRUE,20231127153000123456\n001.png,,1\n002.png,false,2\n"
    )
    build(tmp_path / "photos" / "p.csv", tmp_path / "i", tiny["clip"])
    searcher = open_searcher(tmp_path / "i")
    for where, wanted in (
        ("night = true", ["000.png"]),
        ("night = false", ["002.png"]),
        ("night is null", ["001.png"]),
        ("id = '20231127153000123456'", ["000.png"]),
    ):
        assert [found["path"] for found in search(searcher, "a", where=where)["results"]] == wanted
    kinds = {
        column["name"]: (column["kind"], column["values"]) for column in describe_columns(searcher.index)
    }
    assert kinds["night"] == ("flag", [False, True]) and kinds["id"][0] == "text"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize(("separator", "name"), [(";", "Fotos.CSV"), ("\t", "fotos.tsv"), (",", "fotos.csv")])
def test_reads_exports_of_spreadsheets(tmp_path, encoding, separator, name, capsys):
    """Columns with capitals, backslashes, decimal commas, boxes by two corners."""
    for photo in ("Tür/IMG_1.jpg", "Tür/IMG_2.jpg"):
        (tmp_path / photo).parent.mkdir(exist_ok=True)
        (tmp_path / photo).write_bytes(b"")
    rows = [
        ["Image", "X1", "Y1", "X2", "Y2", "Straße"],
        ["Tür\\IMG_1.JPG", '"10,4"', "20", "50", "140", "Süd"],
    ]
    rows += [["Tür\\IMG_2.JPG", "", "", "", "", ""], ["Tür\\IMG_2.JPG", "50", "20", "50", "140", ""]]
    text = "\r\n".join(separator.join(row) for row in rows) + "\r\n"
    (tmp_path / name).write_bytes(text.encode(encoding))
    gallery = find_gallery(tmp_path / name)
    assert [(photo.path, photo.box, photo.columns) for photo in gallery.photos] == [
        ("Tür/IMG_1.jpg", (10, 20, 40, 120), {"Straße": "Süd"}),
        ("Tür/IMG_2.jpg", None, {"Straße": None}),
    ]
    assert gallery.skipped == [
        (f"{name}: line 4", "the box is 0 x 120 pixels: X2 and Y2 must be above X1 and Y1")
    ]
    notes = capsys.readouterr().err.splitlines()
    assert notes[-1] == f"note: {tmp_path / name}: boxes read from X1, Y1, X2, Y2 as two corners, in pixels"
    assert len(notes) == (2 if encoding == "cp1252" else 1)


def test_boxes_that_are_fractions_of_the_photo(tmp_path, capsys):
    """The photo is upright after its EXIF orientation; a missing one is told when it is read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(tmp_path / "wide.jpg")
    path = tmp_path / "photos.jsonl"
    box = {"x": 0.1, "y": 0.2, "w": 0.5, "h": 0.8}
    lines = [{"Image": name} | box for name in ("turned.JPG", "wide.jpg", "none.jpg")]
    path.write_text("\n".join(map(json.dumps, [*lines, box])))
    photos, skipped = find_gallery(path).photos, find_gallery(path).skipped
    assert skipped == [("photos.jsonl: line 4", "field 'image' must be the path of an image")]
    assert [(photo.path, photo.box) for photo in photos][:2] == [
        ("turned.jpg", (10, 40, 50, 160)),
        ("wide.jpg", (20, 20, 100, 80)),
    ]
    assert photos[2].path == "none.jpg" and photos[2].box is not None and photos[0].columns == {}
    assert (
        "as upper left corner and size, as fractions of each photo's width and height"
        in capsys.readouterr().err
    )


def test_a_box_by_other_columns_is_no_filter(tmp_path):
    table = "image,left,top,width,height,camera\na.jpg,1,2,30,40,3\n"
    assert table_of(tmp_path, table) == ([("a.jpg", {"camera": "3"})], [])
    line = {"image": "a.jpg", "Photo": "x", "x_min": 1, "y_min": 2, "x_max": 3, "y_max": 4}
    assert table_of(tmp_path, json.dumps(line), "a.JSONL")[0] == [("a.jpg", {"Photo": "x"})]
    for first, second in (("Image", "IMAGE"), ("image", "Image")):
        twice = {first: "a.jpg", second: "b.jpg"}
        with pytest.raises(UserError, match="names field 'image' twice"):
            table_of(tmp_path, json.dumps(twice), "b.jsonl")


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (["2024-05-01T10:00", "2024-05-01 11:00", "5/6/2024"], "line 4, '5/6/2024', is not a time"),
        (["3a", "5", "1.5", "-4"], "line 2, '3a', is not a number"),
        (["1", "", "nan", "7", "x", "9"], "line 4, 'nan' (and 1 other cell), is not a number"),
        (["gate", "1"], "line 2, 'gate', is not a number"),
        (["true", "False", "maybe", "0"], "line 4, 'maybe' (and 1 other cell), is not true or false"),
        (["2024-05-01", "2024-05-02", "20240503"], "line 4, '20240503', is not a time"),
        (["2024-05-01", "2024-05-02", "2024-05-01T10:00Z"], "line 4, '2024-05-01T10:00Z', has a time zone"),
        (["2024-05-01T10:00Z", "2024-05-01T11:00+02:00", "2024-05-02"], "line 4, '2024-05-02', has no time"),
        (["1", "gate", "door"], None),
        (["1", "2", "007"], None),
        (["20231127153000123456", "7", "8"], None),
        (["9007199254740993", "0.5"], None),
        (["1", "2.5", ""], None),
        (["2024-05-01", ""], None),
        (["", ""], None),
    ],
)
def test_notes_the_cell_that_makes_a_column_text(tmp_path, values, note):
    """Not of columns with a type, most of whose values are text, or with digits that stay text."""
    lines = [f"{number}.jpg,{value}" for number, value in enumerate(values)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["image,seen", *lines]))
    (found,) = find_gallery(path).notes or [None]
    assert found == note or found.startswith(f"{path}: column 'seen': {note}")
    assert found is None or found.endswith(", so the column is text")


def test_notes_odd_values_of_a_jsonl_but_not_of_excluded_lines(tmp_path):
    values = [3, 4.5, True, [1], None, "6"]
    lines = [json.dumps({"image": f"{i}.jpg", "floor": value}) for i, value in enumerate(values)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines))
    (note,) = find_gallery(path).notes
    assert (
        note
        == f"{path}: column 'floor': line 3, True (and 1 other cell), is not a number, so the column is text"
    )
    assert find_gallery(path, exclude=["2.jpg", "3.jpg"]).notes == ()


@pytest.mark.parametrize(
    ("text", "what"), [("", "the file"), ("\n", "the first line"), (",\n1,2\n", "the first line")]
)
def test_an_empty_table(tmp_path, text, what):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        find_gallery(path)
    rest = "is empty: the first line must name the columns, such as image,camera,time"
    assert str(error.value) == f"{path}: {what} {rest}"
