"""Custom data: captions.jsonl and captions.csv, boxes, and invalid lines."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests import benchmark_folders
from tpr_jax.data.annotations import annotation_path
from tpr_jax.data.custom import read_ids, read_rows, unread_splits
from tpr_jax.data.images.read import Crop, read_image
from tpr_jax.data.records import image_sources, load_all
from tpr_jax.data.text_files import InvalidRecord
from tpr_jax.errors import UserError

LINE = {"image": "a.png", "caption": "a man", "id": 7, "split": "train"}


def rows(tmp_path, *lines, kind="jsonl"):
    if kind == "jsonl":
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    else:
        text = "\n".join(lines)
    path = tmp_path / f"captions.{kind}"
    path.write_text(text, encoding="utf-8")
    return read_rows(str(path))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_both_kinds_give_the_same_records(tmp_path, kind):
    splits = load_all(benchmark_folders.own_folder(tmp_path, kind), "folder")
    assert list(splits) == ["train", "val", "test"]
    train = splits["train"]
    assert [len(captions) for captions in train.captions] == [3, 2, 2, 2, 2, 3, 2, 2, 1, 1]
    # 'person 0' to 'person 8' in their alphabetic order, one numbering for all splits.
    assert train.pids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 1]
    assert splits["test"].pids.tolist() == [6, 6, 7, 7, 8, 8]
    photo = str(tmp_path / "photos" / "both.jpg")
    assert image_sources(train)[-2:] == [Crop(photo, 0, 0, 20, 90), Crop(photo, 20, 10, 30, 60)]
    assert image_sources(train)[0] == str(tmp_path / "photos" / "0.jpg")
    assert splits["val"].boxes is None
    whole = read_image(photo)
    np.testing.assert_array_equal(read_image(image_sources(train)[-2]), whole[:, :20])
    np.testing.assert_array_equal(read_image(image_sources(train)[-1]), whole[10:70, 20:])


def test_a_caption_of_several(tmp_path):
    ((number, row),) = rows(tmp_path, LINE | {"caption": ["a", "b"]}, "", LINE | {"caption": "c"})
    assert number == 1 and row["captions"] == ["a", "b", "c"] and row["box"] is None


def test_csv_with_quotes_line_breaks_and_columns_in_any_order(tmp_path):
    head, quoted = "\ufeffsplit,id, image ,caption,note", 'train,3,a.png,"red, ""bright""\nand new",x'
    first, second = rows(tmp_path, head, quoted, "test,4,b.png,c,", kind="csv")
    assert first[1]["captions"] == ['red, "bright"\nand new'] and first[1]["id"] == 3
    assert second[1]["image"] == "b.png" and second[1]["id"] == 4


def test_csv_ids_are_numbers_only_if_all_are(tmp_path):
    head = "image,caption,id,split"
    found = rows(tmp_path, head, "a.png,c,007,train", "b.png,c,7,train", kind="csv")
    assert [row["id"] for _, row in found] == ["007", "7"]
    found = rows(tmp_path, head, "a.png,c,10,train", "b.png,c,7,train", kind="csv")
    assert [row["id"] for _, row in found] == [10, 7]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not JSON"),
        ("[1]", "must be an object with fields, not list"),
        ({"image": "b.png", "caption": "c", "id": 1}, "field 'split' is missing"),
        (LINE | {"image": "b.png", "x": 1, "y": 1, "w": 5}, "field 'h' is missing"),
        (LINE | {"image": "b.png", "x": 1, "y": 1, "w": 5, "h": 0}, "5 x 0 pixels"),
        (LINE | {"image": "b.png", "x": "left", "y": 1, "w": 5, "h": 5}, "field 'x' is 'left'"),
        (LINE | {"image": "b.png", "x": True, "y": 1, "w": 5, "h": 5}, "field 'x' is True"),
        (LINE | {"id": 8}, "another id than line 1"),
        (LINE | {"image": "./a.png", "id": 8}, "another id than line 1"),
    ],
)
def test_rejects_invalid_lines(tmp_path, line, told):
    (_, good), (number, bad) = rows(tmp_path, LINE, line)
    assert good["captions"] == ["a man"] and number == 2
    assert isinstance(bad, InvalidRecord) and told in bad.reason


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"id": 1.5}, "line 2: field 'id' is 1.5: must be a whole number or a name"),
        ({"id": ""}, "line 2: field 'id' is ''"),
        ({"caption": None}, "line 2: field 'caption', item 0 is not a string: None"),
        ({"caption": " "}, "line 2: field 'caption', item 0 is empty"),
        ({"split": "dev"}, "line 2: field 'split' is 'dev': must be one of train, val, test"),
        ({"image": 3}, "line 2: field 'image' is 3"),
    ],
)
def test_rejects_invalid_fields(tmp_path, change, told):
    lines = [LINE, LINE | {"image": "b.png"} | change]
    benchmark_folders.write_own(tmp_path, lines, "jsonl")
    with pytest.raises(UserError, match=told):
        load_all(tmp_path, "folder")


def test_rejects_what_is_not_csv(tmp_path):
    with pytest.raises(UserError, match="the first line has no column 'caption'"):
        rows(tmp_path, "image,text,id,split", kind="csv")
    with pytest.raises(UserError, match="the first line has no column 'image'"):
        rows(tmp_path, "", kind="csv")
    with pytest.raises(UserError, match=r"captions.csv: line 2 is not CSV"):
        rows(tmp_path, "image,caption,id,split", 'a.png,"red" coat,1,train', kind="csv")
    ((number, bad),) = rows(tmp_path, "image,caption,id,split", "a.png,red, blue,1,train", kind="csv")
    assert number == 2 and "has 5 fields, the first line 4" in bad.reason
    (tmp_path / "captions.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match=r"captions.jsonl: not UTF-8 but UTF-16, .* and not whole: save it"):
        read_rows(str(tmp_path / "captions.jsonl"))


def test_crops_are_relative_to_the_upright_image(tmp_path):
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees, clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(pixels, -1)
    path = str(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(Crop(path, 3, 1, 2, 3)), upright[1:4, 3:5])
    np.testing.assert_array_equal(read_image(Crop(path, -2, -1, 3, 3)), upright[:2, :1])
    with pytest.raises(UserError, match=r"a.png \[6, 0, 2, 2\]: the box .* is outside of the image of 6 x 4"):
        read_image(Crop(path, 6, 0, 2, 2))
    with pytest.raises(UserError, match="outside of the image"):
        read_image(Crop(path, -5, 0, 5, 2))


HEAD = "image,caption,id,split"


@pytest.mark.parametrize("mark", "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r", ids=ascii)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_replaces_line_breaks_of_word_processors(tmp_path, mark, kind):
    texts = [f"A man in a{mark}red coat", f"A woman{mark}with a bag", "A boy"]
    if kind == "csv":
        lines = [HEAD, *(f"{n}.jpg,{text},{n},train" for n, text in enumerate(texts))]
    else:
        lines = [{"image": f"{n}.jpg", "caption": t, "id": n, "split": "train"} for n, t in enumerate(texts)]
    found = [row["captions"] for _, row in rows(tmp_path, *lines, kind=kind)]
    if kind == "jsonl" and mark == "\r":  # JSON's own escape: white space to every tokenizer
        found = [[text.replace("\r", " ")] for (text,) in found]
    assert found == [["A man in a red coat"], ["A woman with a bag"], ["A boy"]]


def test_strips_blanks_everywhere(tmp_path):
    lines = [" image , caption, id , split", "a.jpg , A man in red, 7 , train", "b.jpg , x,7, train "]
    first, second = (row for _, row in rows(tmp_path, *lines, kind="csv"))
    assert (first["image"], first["captions"], first["id"], first["split"]) == (
        "a.jpg",
        ["A man in red"],
        7,
        "train",
    )
    assert second["id"] == first["id"]
    (_, row), (_, twice) = rows(
        tmp_path,
        {" image ": "a.jpg", "caption ": "x", "id": " anna ", " split": " train "},
        {"image": "b.jpg", " caption": "x", "caption": "y", "id": "7", "split": "train"},
    )
    assert (row["image"], row["id"], row["split"]) == ("a.jpg", "anna", "train")
    assert twice == InvalidRecord("names field 'caption' twice: leave one out")


@pytest.mark.parametrize("name", ["image", "caption", "id", "split", "x", "note"])
@pytest.mark.parametrize("blank", ["", " "])
def test_rejects_a_repeated_column(tmp_path, name, blank):
    with pytest.raises(UserError, match=f"captions.csv: the first line names column '{name}' twice"):
        rows(tmp_path, f"{HEAD},x,note,{blank}{name}", "a.png,c,1,train,,,", kind="csv")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Caption", "caption"),
        ("ID", "id"),
        ("caption\u200b", "caption"),
        ("\ufeffsplit", "split"),
        ("X", "x"),
    ],
)
def test_rejects_a_column_repeated_with_other_capitals_or_invisible_characters(tmp_path, name, told):
    with pytest.raises(UserError, match=f"captions.csv: the first line names column '{told}' twice"):
        rows(tmp_path, f"{HEAD},x,{name}", "a.png,c,1,train,,", kind="csv")
    _, (number, bad) = rows(tmp_path, LINE, LINE | {"x": None, name: "b"})
    assert (number, bad) == (2, InvalidRecord(f"names field '{told}' twice: leave one out"))


def test_ignores_columns_without_a_name(tmp_path):
    ((_, row),) = rows(tmp_path, f"{HEAD},,", "a.png,c,1,train,u,v", kind="csv")
    assert row["captions"] == ["c"]


def test_rejects_a_repeated_field(tmp_path):
    line = '{"image": "b.png", "caption": "x", "id": 1, "split": "train", "caption": "y"}'
    _, (number, bad) = rows(tmp_path, LINE, line)
    assert (number, bad) == (2, InvalidRecord("names field 'caption' twice: leave one out"))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_treats_ids_beyond_64_bits_as_names(tmp_path, kind):
    ids = [20231127153000123456, 20231127153000123457, -(2**63) - 1]
    if kind == "csv":
        lines = [HEAD, *(f"{n}.png,c,{pid},train" for n, pid in enumerate(ids))]
    else:
        lines = [LINE | {"image": f"{n}.png", "id": pid} for n, pid in enumerate(ids)]
    assert [row["id"] for _, row in rows(tmp_path, *lines, kind=kind)] == list(map(str, ids))
    edge = [HEAD, f"a.png,c,{2**63 - 1},train", f"b.png,c,{-(2**63)},train"]
    assert [row["id"] for _, row in rows(tmp_path, *edge, kind="csv")] == [2**63 - 1, -(2**63)]


@pytest.mark.parametrize("long", [str(2**63), "1" + "0" * 5000], ids=["64 bits", "5,000 digits"])
def test_a_long_id_beside_short_ones(tmp_path, long):
    for name in "abc":
        benchmark_folders.draw(tmp_path / f"{name}.png", 0)
    rows(tmp_path, HEAD, "a.png,c,7,train", f"b.png,c,{long},train", "c.png,c,7,test", kind="csv")
    splits = load_all(tmp_path, "folder")
    assert len(set(splits["train"].pids.tolist())) == 2
    assert splits["test"].pids[0] == splits["train"].pids[0]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_groups_lines_by_image_file(tmp_path, kind):
    """Blanks, backslashes, `..` and Unicode forms do not make it another file."""
    (tmp_path / "Zo\u00eb").mkdir()
    (tmp_path / "Zo\u00eb" / "a.png").write_bytes(b"x")
    names = [
        "Zo\u00eb/a.png",
        "./Zo\u00eb/a.png",
        "Zoe\u0308/a.png",
        "Zo\u00eb\\a.png",
        "Zo\u00eb/../Zo\u00eb/a.png",
    ]
    names += [str(tmp_path / "Zo\u00eb" / "a.png"), " Zo\u00eb/a.png "]
    if kind == "csv":
        lines = [HEAD, *(f"{name},c{n},7,train" for n, name in enumerate(names))]
    else:
        lines = [LINE | {"image": name, "caption": f"c{n}"} for n, name in enumerate(names)]
    ((_, row),) = rows(tmp_path, *lines, kind=kind)
    assert row["captions"] == [f"c{n}" for n in range(len(names))]


def test_accepts_two_spellings_of_one_id(tmp_path):
    ((_, row),) = rows(tmp_path, LINE, LINE | {"id": "7"}, LINE | {"id": 7.0})
    assert len(row["captions"]) == 3


def test_a_photo_in_two_splits_is_two_records(tmp_path):
    """It is then reported as a leak, and config.on_leak decides; see test_leaks."""
    (_, first), (_, second) = rows(tmp_path, LINE, LINE | {"split": "test"})
    assert (first["split"], second["split"]) == ("train", "test")


@pytest.mark.parametrize("image", ["a\0.jpg", "\ud83d.jpg"], ids=ascii)
def test_rejects_names_that_no_file_can_have(tmp_path, image):
    (tmp_path / "captions.jsonl").write_text(json.dumps(LINE | {"image": image}))
    with pytest.raises(
        UserError, match=r"line 1: field 'image' is '.*': no file can have that name"
    ) as error:
        load_all(tmp_path, "folder")
    str(error.value).encode("ascii")


def test_replaces_lone_surrogates_in_captions(tmp_path):
    """A lone surrogate would make writing the report fail at the end of a run."""
    benchmark_folders.draw(tmp_path / "a.png", 0)
    (tmp_path / "captions.jsonl").write_text(json.dumps(LINE | {"caption": "a man \ud83d"}))
    assert load_all(tmp_path, "folder")["train"].captions == [["a man \ufffd"]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_reads_exports_of_spreadsheets(tmp_path, encoding, separator, capsys):
    """`Captions.CSV` with capitals in its names, a suffix in another case, and boxes by two corners."""
    benchmark_folders.draw(tmp_path / "Tür" / "IMG_1.jpg", 0)
    lines = [
        ["Image", "Caption", "ID", "Split", "X1", "Y1", "X2", "Y2"],
        ["Tür\\IMG_1.JPG", "Ein Mann mit grüner Mütze", "Zoë", "Train", '"0,4"', "0", "20", "90"],
        ["Tür\\IMG_1.JPG", "x", "Ben", "TEST", "20", "0", "40", "90"],
    ]
    text = "\r\n".join(separator.join(line) for line in lines)
    (tmp_path / "Captions.CSV").write_bytes(text.encode(encoding))
    splits = load_all(tmp_path, "folder")
    path = str(tmp_path / "Tür" / "IMG_1.jpg")
    assert image_sources(splits["train"]) == [Crop(path, 0, 0, 20, 90)]
    assert image_sources(splits["test"]) == [Crop(path, 20, 0, 20, 90)]
    assert splits["train"].captions == [["Ein Mann mit grüner Mütze"]] and splits["train"].names == ["Zoë"]
    notes = capsys.readouterr().err
    told = f"note: {tmp_path}/Captions.CSV: boxes read from X1, Y1, X2, Y2 as two corners, in pixels\n"
    assert notes.endswith(told) and ("Windows-1252" in notes) == (encoding == "cp1252")


def test_boxes_that_are_fractions_of_the_photo(tmp_path):
    """Boxes of a missing photo stay apart, so that it is reported as missing and nothing else."""
    benchmark_folders.draw(tmp_path / "a.png", 0)  # 40 x 90
    left, right = {"x": 0, "y": 0.1, "w": 0.5, "h": 0.9}, {"x": 0.5, "y": 0, "w": 0.5, "h": 1}
    lines = [LINE | left, LINE | right | {"id": 8}]
    lines += [line | {"image": "none.png"} for line in lines]
    found = [row for _, row in rows(tmp_path, *lines)]
    assert [row["box"] for row in found[:2]] == [(0, 9, 20, 81), (20, 0, 20, 90)]
    assert [row["id"] for row in found] == [7, 8, 7, 8] and found[2]["box"] != found[3]["box"]


def test_a_missing_split_names_the_remedy(tmp_path):
    remedy = (
        r"no column 'split': add it.*`python -m tpr_jax.data.check folder --data_dir .* --split 80/10/10`"
    )
    line = {name: value for name, value in LINE.items() if name != "split"}
    with pytest.raises(UserError, match=remedy):
        rows(tmp_path, line)
    with pytest.raises(UserError, match=remedy):
        rows(tmp_path, "image,caption,id", "a.png,c,1", kind="csv")
    with pytest.raises(UserError, match=remedy):
        rows(tmp_path, HEAD, "a.png,c,1,", kind="csv")


def test_takes_the_splits_beside(tmp_path):
    (tmp_path / "splits.csv").write_text("id,split\n7,train\nZoë,test\n", encoding="utf-8")
    lines = ["image,caption,id", "a.png,c,7", "b.png,c,Zoe\u0308", "c.png,c,8", "d.png,c,"]
    found = [row for _, row in rows(tmp_path, *lines, kind="csv")]
    assert [row["split"] for row in found[:2]] == ["train", "test"]
    assert found[2].reason.startswith("person 8 is not in splits.csv: `python -m")
    rows(tmp_path, *lines[:3], lines[4], kind="csv")
    with pytest.raises(UserError, match="line 4: field 'id' is ''"):
        load_all(tmp_path, "folder")
    ((_, row),) = rows(tmp_path, LINE | {"split": "val"})  # a file's own splits go first
    assert row["split"] == "val"


def test_a_missing_photo_beside_one_that_looks_the_same(tmp_path):
    benchmark_folders.draw(tmp_path / "IMG 1.png", 0)
    benchmark_folders.write_own(tmp_path, [LINE | {"image": "IMG\u00a01.png"}], "jsonl")
    told = (
        r"no such image, but 'IMG 1.png' is there, which differs: it has U\+0020 for U\+00A0 at position 4;"
    )
    with pytest.raises(UserError, match=told):
        load_all(tmp_path, "folder")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([LINE, LINE], "1 line repeats an earlier one, from line 2 on: their captions count twice"),
        ([LINE, LINE, LINE], "2 lines repeat earlier ones, from line 2 on: their captions count twice"),
        ([LINE, LINE | {"caption": "a man in red"}, LINE | {"split": "test"}], ""),
    ],
)
def test_repeated_lines_are_told(tmp_path, lines, told, capsys):
    rows(tmp_path, *lines)
    assert capsys.readouterr().err == (f"note: {tmp_path}/captions.jsonl: {told}\n" if told else "")


def test_tells_which_of_two_annotations_is_read(tmp_path, capsys):
    rows(tmp_path, LINE)
    assert annotation_path("folder", tmp_path) == str(tmp_path / "captions.jsonl")
    assert capsys.readouterr().err == ""
    (tmp_path / "Captions.CSV").write_text("image,caption,id,split\n")
    assert annotation_path("folder", tmp_path) == str(tmp_path / "captions.jsonl")
    told = f"note: {tmp_path}: captions.jsonl is read, Captions.CSV is not: keep one of them\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("pid", ["1.70E+15", "########", "#REF!"])
def test_rejects_ids_that_a_spreadsheet_has_spoiled(tmp_path, kind, pid):
    lines = [LINE | {"id": "anna"}, LINE | {"image": "b.png", "id": pid}]
    benchmark_folders.write_own(tmp_path, lines, kind)
    number = 3 if kind == "csv" else 2
    with pytest.raises(UserError, match=f"line {number}: id '{re.escape(pid)}' .* different people would be"):
        load_all(tmp_path, "folder")
    without = [{name: value for name, value in line.items() if name != "split"} for line in lines]
    benchmark_folders.write_own(tmp_path, without, kind)
    with pytest.raises(UserError, match=f"line {number}: id '{re.escape(pid)}'"):
        read_ids(annotation_path("folder", tmp_path))


@pytest.mark.parametrize("pid", [True, 3.5, [1], "\ud83d"], ids=ascii)
def test_only_usable_ids_are_people(tmp_path, pid):
    lines = [{"image": "a.png", "caption": "c", "id": value} for value in (7, None, " ", "7.0", pid)]
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines[:4])))
    assert read_ids(str(path)) == ["7"]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=r"captions.jsonl: line 5: field 'id' is .*: (must be|is not valid)"):
        read_ids(str(path))


def test_tells_that_the_splits_beside_are_not_read(tmp_path, capsys):
    rows(tmp_path, LINE)
    assert unread_splits(str(tmp_path / "captions.jsonl")) == []
    (tmp_path / "Splits.csv").write_text("id,split\n7,test\n")
    ((_, row),) = rows(tmp_path, LINE)
    told = f"{tmp_path}/Splits.csv: is not read, since captions.jsonl has splits: keep one of them"
    assert row["split"] == "train" and capsys.readouterr().err == f"note: {told}\n"
    assert unread_splits(str(tmp_path / "captions.jsonl")) == [told]


@pytest.mark.parametrize("name", ["split\u200b", "\ufeffSPLIT"])
def test_reads_a_split_column_with_invisible_characters(tmp_path, name):
    (tmp_path / "splits.csv").write_text("id,split\n7,test\n")
    ((_, row),) = rows(tmp_path, f"image,caption,id,{name}", "a.png,c,7,train", kind="csv")
    assert row["split"] == "train"


@pytest.mark.parametrize(("name", "value"), [("Splits", "a"), ("s\u0440lit", "a"), ("subset", "Train")])
def test_tells_a_column_that_seems_to_have_the_splits(tmp_path, name, value, capsys):
    lines = [f"image,caption,id,note,{name}", f"a.png,c,7,train of thought,{value}"]
    with pytest.raises(
        UserError, match=f"no column 'split': rename '{name}' if it has the splits, or add it"
    ):
        rows(tmp_path, *lines, kind="csv")
    (tmp_path / "splits.csv").write_text("id,split\n7,test\n")
    ((_, row),) = rows(tmp_path, *lines, kind="csv")
    told = (
        f"captions.csv: column '{name}' is not read, since splits.csv has the splits: if it has them, rename"
    )
    assert row["split"] == "test" and told in capsys.readouterr().err
    rows(tmp_path, "image,caption,id,note", "a.png,c,7,train", "b.png,d,7,odd", kind="csv")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_names_the_line_of_an_empty_caption(tmp_path, kind):
    lines = [LINE, LINE | {"image": "b.png", "id": 8}, LINE | {"caption": " "}]
    benchmark_folders.write_own(tmp_path, lines, kind)
    number = 4 if kind == "csv" else 3
    with pytest.raises(UserError, match=rf"line {number}: field 'caption', item 0 is empty"):
        load_all(tmp_path, "folder")


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        (None, "field 'caption', item 0 is not a string: None"),
        (["c", 1], "field 'caption', item 1 is not a string: 1"),
        ([], "field 'caption' must be a text or a list of at least one"),
    ],
)
def test_an_invalid_caption_costs_only_its_line(tmp_path, caption, told):
    lines = [LINE | {"caption": ["a", "b"]}, LINE | {"caption": caption}, LINE | {"caption": "d"}]
    (_, row), (number, bad) = rows(tmp_path, *lines)
    assert row["captions"] == ["a", "b", "d"] and row["lines"] == [(1, 0), (1, 1), (3, 0)]
    assert (number, bad) == (2, InvalidRecord(told))
