"""Own data: captions.jsonl and captions.csv, boxes, and what can be wrong with a line."""

import json

import benchmark_folders
import numpy as np
import pytest
from PIL import Image

from tpr_jax.data.images import Crop, read_image
from tpr_jax.data.own_folder import Unusable, read_rows
from tpr_jax.data.records import image_sources, load_all
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
        (LINE | {"id": 8}, "another split or id than line 1"),
        (LINE | {"split": "test"}, "another split or id than line 1"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path, line, told):
    (_, good), (number, bad) = rows(tmp_path, LINE, line)
    assert good["captions"] == ["a man"] and number == 2
    assert isinstance(bad, Unusable) and told in bad.reason


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"id": 1.5}, "line 2: field 'id' is 1.5: must be a whole number or a name"),
        ({"id": ""}, "line 2: field 'id' is ''"),
        ({"caption": None}, "line 2: field 'caption', item 0 is not a text: None"),
        ({"caption": " "}, "line 2: field 'caption', item 0 is empty"),
        ({"split": "dev"}, "line 2: field 'split' is 'dev': must be one of train, val, test"),
        ({"image": 3}, "line 2: field 'image' is 3"),
    ],
)
def test_fields_that_cannot_be_used(tmp_path, change, told):
    lines = [LINE, LINE | {"image": "b.png"} | change]
    benchmark_folders.write_own(tmp_path, lines, "jsonl")
    with pytest.raises(UserError, match=told):
        load_all(tmp_path, "folder")


def test_csv_that_is_none(tmp_path):
    with pytest.raises(UserError, match="the first line has no column 'caption'"):
        rows(tmp_path, "image,text,id,split", kind="csv")
    with pytest.raises(UserError, match="the first line has no column 'image'"):
        rows(tmp_path, "", kind="csv")
    with pytest.raises(UserError, match="captions.csv: line 2 is not CSV"):
        rows(tmp_path, "image,caption,id,split", 'a.png,"red" coat,1,train', kind="csv")
    ((number, bad),) = rows(tmp_path, "image,caption,id,split", "a.png,red, blue,1,train", kind="csv")
    assert number == 2 and "has 5 fields, the first line 4" in bad.reason
    (tmp_path / "captions.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="captions.jsonl: not UTF-8"):
        read_rows(str(tmp_path / "captions.jsonl"))


def test_a_crop_is_of_the_upright_picture(tmp_path):
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees, clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(pixels, -1)
    path = str(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(Crop(path, 3, 1, 2, 3)), upright[1:4, 3:5])
    np.testing.assert_array_equal(read_image(Crop(path, -2, -1, 3, 3)), upright[:2, :1])
    with pytest.raises(UserError, match=r"a.png \[6, 0, 2, 2\]: the box .* outside of the picture of 6 x 4"):
        read_image(Crop(path, 6, 0, 2, 2))
    with pytest.raises(UserError, match="outside of the picture"):
        read_image(Crop(path, -5, 0, 5, 2))
