"""Dividing people into splits: shares, seeds, growing data, and the file."""

from collections import Counter

import pytest

from tpr_jax.data.people_splits import (
    divide,
    find_people_splits,
    parse_shares,
    read_people_splits,
    write_people_splits,
)
from tpr_jax.errors import UserError

THREE = {"train": 0.8, "val": 0.1, "test": 0.1}
PEOPLE = [f"person {number}" for number in range(100)]


def test_shares():
    assert parse_shares("80/10/10") == pytest.approx(THREE)
    assert parse_shares("4/1") == pytest.approx({"train": 0.8, "test": 0.2})
    for text in ("", "80", "80/20/", "80/10/5/5", "80/-10/30", "80/0/20", "a/b", "nan/1", "inf/1"):
        with pytest.raises(
            UserError, match=r"--split .*: give the shares of train, val and test as 80/10/10"
        ):
            parse_shares(text)


@pytest.mark.parametrize(
    ("count", "counts"),
    [
        (100, (80, 10, 10)),
        (10, (8, 1, 1)),
        (5, (3, 1, 1)),
        (3, (1, 1, 1)),
        (17, (13, 2, 2)),
        (99, (79, 10, 10)),
    ],
)
def test_counts(count, counts):
    found = Counter(divide(PEOPLE[:count], THREE, 0, {}).values())
    assert tuple(found[name] for name in THREE) == counts


def test_depends_on_the_seed_and_not_on_the_order():
    divided = divide(PEOPLE, THREE, 0, {})
    assert divide(PEOPLE[::-1], THREE, 0, {}) == divided != divide(PEOPLE, THREE, 1, {})
    assert set(divided) == set(PEOPLE)


def test_known_people_keep_their_split():
    known = divide(PEOPLE[:50], THREE, 0, {}) | {"gone": "val"}
    divided = divide(PEOPLE, THREE, 1, known)
    assert {person: divided[person] for person in known} == known
    assert Counter(divided[person] for person in PEOPLE) == {"train": 80, "val": 10, "test": 10}


def test_rejects_too_few_people():
    with pytest.raises(UserError, match="2 people cannot be divided into 3 splits"):
        divide(PEOPLE[:2], THREE, 0, {})


def test_reads_what_it_writes(tmp_path):
    assert read_people_splits(str(tmp_path)) is None
    splits = {"7": "train", "007": "test", 'Zoë, "the first"': "val"}
    write_people_splits(str(tmp_path), splits)
    assert read_people_splits(str(tmp_path)) == splits
    (tmp_path / "splits.csv").write_bytes("Id;Split\r\n7.0;Train\r\n".encode("utf-16"))
    assert read_people_splits(str(tmp_path)) == {"7": "train"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,split\n", "must have the columns id and split, and no other"),
        ("id,split,note\n", "must have the columns id and split, and no other"),
        ("id,split\n1,dev\n", "line 2: split 'dev' must be one of train, val, test"),
        ("id,split\n1,train\n1,test\n", "line 3: person 1 has two splits"),
        ("id,split\n1,train\n1.70E+15,test\n", r"line 3: id '1.70E\+15' looks like a number that a spread"),
        ("id,split\n#N/A,test\n", "line 2: id '#N/A' is an error of a spreadsheet"),
        ("id,split\n1\n", "line 2 has 1 fields"),
    ],
)
def test_rejects_other_files(tmp_path, text, told):
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(UserError, match=rf"splits.csv: {told}"):
        read_people_splits(str(tmp_path))


def test_capitals_in_the_name_of_the_file_do_not_matter(tmp_path):
    assert find_people_splits(str(tmp_path)) is None
    (tmp_path / "Splits.CSV").write_text("id,split\n7,test\n")
    assert find_people_splits(str(tmp_path)) == str(tmp_path / "Splits.CSV")
    assert read_people_splits(str(tmp_path)) == {"7": "test"}
    write_people_splits(str(tmp_path), {"7": "test", "8": "train"})
    assert [path.name for path in tmp_path.iterdir()] == ["Splits.CSV"]
    assert read_people_splits(str(tmp_path)) == {"7": "test", "8": "train"}


def test_rejects_two_files_that_differ_in_capitals(tmp_path):
    for name in ("splits.csv", "Splits.csv"):
        (tmp_path / name).write_text("id,split\n7,test\n")
    told = f"^{tmp_path}: holds both Splits.csv and splits.csv: keep one of them"
    with pytest.raises(UserError, match=told):
        read_people_splits(str(tmp_path))
    with pytest.raises(UserError, match=told):
        write_people_splits(str(tmp_path), {})
