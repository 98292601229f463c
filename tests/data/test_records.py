import json

import numpy as np
import pytest

from tpr_jax.data.records import caption_pairs, load_all, load_records
from tpr_jax.errors import UserError


def record(number=0, **changes):
    fields = {
        "split": "train",
        "captions": [f"a man {number}", f"he walks {number}"],
        "file_path": f"cam/{number}.jpg",
        "id": 5 + number // 2,
    }
    return {**fields, **changes}


def write(folder, entries):
    (folder / "imgs" / "cam").mkdir(parents=True)
    for number in range(6):
        (folder / "imgs" / "cam" / f"{number}.jpg").write_bytes(b"x")
    text = entries if isinstance(entries, str | bytes) else json.dumps(entries)
    (folder / "reid_raw.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def test_loads_one_split_in_the_annotations_order(tmp_path):
    entries = [record(3), record(0, captions=["one"], processed_tokens=[["one"]]), record(1, split="test")]
    records = load_records(write(tmp_path, entries), "train")
    assert records.image_paths == [str(tmp_path / "imgs" / "cam" / "3.jpg"), str(tmp_path / "imgs/cam/0.jpg")]
    assert records.captions == [["a man 3", "he walks 3"], ["one"]]
    assert records.pids.dtype == np.int64 and records.pids.tolist() == [6, 5]
    assert records.name == f"{tmp_path.name}:train"


def test_caption_pairs_are_one_row_a_caption(tmp_path):
    entries = [record(0, captions=["a", "b", "c"]), record(1, captions=["d"]), record(2, captions=["e", "f"])]
    image_index, captions, pids = caption_pairs(load_records(write(tmp_path, entries), "train"))
    assert captions == list("abcdef")
    assert image_index.dtype == np.int32 and image_index.tolist() == [0, 0, 0, 1, 2, 2]
    assert pids.dtype == np.int64 and pids.tolist() == [5, 5, 5, 5, 6, 6]


def test_accepts_a_byte_order_mark(tmp_path):
    folder = write(tmp_path, b"\xef\xbb\xbf" + json.dumps([record()]).encode())
    assert load_records(folder, "train").pids.tolist() == [5]


def without(field):
    entry = record(1)
    del entry[field]
    return entry


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (without("split"), ["record 1", "'split'", "missing"]),
        (without("captions"), ["record 1", "'captions'", "missing"]),
        (without("file_path"), ["record 1", "'file_path'", "missing"]),
        (without("id"), ["record 1", "'id'", "missing"]),
        ("a man", ["record 1", "object", "str"]),
        (record(1, split="trian"), ["record 1", "'split'", "'trian'"]),
        (record(1, split=3), ["record 1", "'split'", "3"]),
        (record(1, split=["train"]), ["record 1", "'split'"]),
        (record(1, id="7"), ["record 1", "'id'", "'7'"]),
        (record(1, id=7.5), ["record 1", "'id'", "7.5"]),
        (record(1, id=True), ["record 1", "'id'", "True"]),
        (record(1, id=None), ["record 1", "'id'", "None"]),
        (record(1, id=2**70), ["record 1", "'id'"]),
        (record(1, file_path=7), ["record 1", "'file_path'", "7"]),
        (record(1, file_path=""), ["record 1", "'file_path'"]),
        (record(1, captions="a man"), ["record 1", "'captions'", "list"]),
        (record(1, captions=[]), ["record 1", "'captions'", "at least one"]),
        (record(1, captions=["a man", ""]), ["record 1", "'captions'", "item 1", "empty"]),
        (record(1, captions=[" \n\t"]), ["record 1", "'captions'", "item 0", "empty"]),
        (record(1, captions=["a man", 5]), ["record 1", "'captions'", "item 1", "not a string", "5"]),
        (record(1, captions=[None]), ["record 1", "'captions'", "item 0", "not a string"]),
        # Also where another split is asked for: half an annotation is not trusted.
        (record(1, split="test", captions=[None]), ["record 1", "'captions'"]),
    ],
)
def test_malformed_record_is_named(tmp_path, bad, told):
    with pytest.raises(UserError) as error:
        load_records(write(tmp_path, [record(0), bad]), "train")
    message = str(error.value)
    assert "\n" not in message
    for word in ["reid_raw.json", *told]:
        assert word in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('[{"split": "train"', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"train": []}', "must be a list of records, not dict"),
        ("[]", "no record of split 'train'"),
    ],
)
def test_rejects_what_is_not_an_annotation(tmp_path, content, told):
    with pytest.raises(UserError, match=told) as error:
        load_records(write(tmp_path, content), "train")
    assert "reid_raw.json" in str(error.value)


def test_missing_split_lists_the_existing_ones(tmp_path):
    folder = write(tmp_path, [record(1, split="test"), record(0), record(2, split="test")])
    with pytest.raises(UserError, match="'val': choose one of train, test"):
        load_records(folder, "val")
    with pytest.raises(UserError, match="'testing' is unknown: choose one of train, val, test"):
        load_records(folder, "testing")


def test_missing_folder_and_annotation(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder: set data_dir"):
        load_records(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match=r"reid_raw.json: no such file: data_dir must hold"):
        load_records(tmp_path, "train")


def test_counts_missing_images_of_the_split(tmp_path):
    entries = [
        record(0),
        record(1, file_path="gone.jpg"),
        record(2, file_path="lost.jpg"),
        record(3, split="test"),
    ]
    folder = write(tmp_path, entries)
    with pytest.raises(UserError, match=r"gone.jpg: no such image; 2 of the 3 images .*'train' are missing"):
        load_records(folder, "train")
    assert len(load_records(folder, "test").pids) == 1


def test_all_splits_are_in_their_usual_order(tmp_path):
    entries = [record(0, split="test"), record(1, split="train"), record(2, split="test")]
    splits = load_all(write(tmp_path, entries))
    assert list(splits) == ["train", "test"]
    for name, records in splits.items():
        alone = load_records(tmp_path, name)
        assert (records.name, records.image_paths) == (f"{tmp_path.name}:{name}", alone.image_paths)
        assert (records.captions, records.pids.tolist()) == (alone.captions, alone.pids.tolist())
    (tmp_path / "reid_raw.json").write_text(json.dumps([record(0, split="val")]))
    assert list(load_all(tmp_path)) == ["val"]
    (tmp_path / "reid_raw.json").write_text("[]")
    assert load_all(tmp_path) == {}


def test_all_splits_of_a_malformed_annotation(tmp_path):
    with pytest.raises(UserError, match="record 1: field 'split' is 'trian'"):
        load_all(write(tmp_path, [record(0), record(1, split="trian")]))
    with pytest.raises(UserError, match="no such folder"):
        load_all(tmp_path / "nowhere")
