"""The annotations of large machine-captioned sets: what is merged, left out and rejected."""

import json
import shutil

import pyarrow
import pytest
from pyarrow import parquet

from tests import benchmark_folders
from tpr_jax.data import annotations, datasets
from tpr_jax.data.machine_captions import read_ham_pedes, read_luperson_mllm, read_webperson
from tpr_jax.data.records import load_all
from tpr_jax.errors import UserError
from tpr_jax.utils.notices import print_once


@pytest.fixture(autouse=True)
def notes_anew():
    print_once.cache_clear()


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return str(path)


def test_luperson_merges_the_captions_of_an_image_by_its_name(tmp_path):
    write(tmp_path / "Td-qwen.json", {"/root/x/a.jpg": "one", "/root/y/b.jpg": "two"})
    path = write(tmp_path / "Ts-qwen.json", {"b.jpg": "three", "elsewhere/c.jpg": "four"})
    write(tmp_path / "other.json", {"a.jpg": "not read"})
    assert list(read_luperson_mllm(path)) == [
        (0, {"file_path": "a.jpg", "captions": ["one"], "id": 0}),
        (1, {"file_path": "b.jpg", "captions": ["two", "three"], "id": 1}),
        (2, {"file_path": "c.jpg", "captions": ["four"], "id": 2}),
    ]


def test_captions_that_say_nothing_are_left_out_with_a_note(tmp_path, capsys):
    template, broken = "A man with [hair description].", "a <box>"
    path = write(tmp_path / "Ts-qwen.json", {"a.jpg": template, "b.jpg": " ", "c.jpg": broken})
    write(tmp_path / "Ts-shikra.json", {"a.jpg": "a man", "b.jpg": "", "c.jpg": "a woman"})
    assert [(n, row["captions"]) for n, row in read_luperson_mllm(path)] == [(0, ["a man"]), (2, ["a woman"])]
    told = f"note: {path}: left out 4 captions that are empty or an unfilled template, and 1 image without"
    assert told in capsys.readouterr().err


def test_only_luperson_has_templates(tmp_path, capsys):
    path = write(tmp_path / "x.json", {"a.jpg": ["shorter than <him>", "a [hair description]"], "b.jpg": "b"})
    assert [row["captions"] for _, row in read_ham_pedes(path)] == [
        ["shorter than <him>", "a [hair description]"],
        ["b"],
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("place", [".", "caption", "captions"])
def test_luperson_is_found_where_the_authors_code_and_readme_have_it(place, tmp_path):
    folder = benchmark_folders.luperson_mllm(tmp_path / "set")
    if place != "caption":
        shutil.move(folder / "caption", tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", folder / place, dirs_exist_ok=True)
    assert len(load_all(folder, "luperson_mllm")["train"].image_paths) == 10
    names = [path.name for path in annotations.annotation_files("luperson_mllm", folder)]
    assert names == ["Td-qwen.json", "Td-shikra.json", "Ts-qwen.json", "Ts-shikra.json"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "must be an object, image: captions, not list"),
        ('"a"', "must be an object, image: captions, not str"),
        ('{"a.jpg": "x"', r"not JSON \(.*\): get a complete copy of the annotation"),
    ],
)
def test_a_file_of_another_form_is_an_error(content, told, tmp_path):
    path = write(tmp_path / "random100w_2HAMcaptions.json", content)
    with pytest.raises(UserError, match=f"random100w_2HAMcaptions.json: {told}"):
        list(read_ham_pedes(path))


@pytest.mark.parametrize("value", [3, {"x": "y"}, ["a", 3], None])
def test_a_caption_that_is_no_text_is_an_error_of_its_record(value, tmp_path):
    write(tmp_path / "random100w_2HAMcaptions.json", {"a.jpg": ["good"], "b.jpg": value})
    with pytest.raises(UserError, match=r"record 1: field 'captions', item . is not a string"):
        load_all(tmp_path, "ham_pedes", missing_ok=True)


def test_webperson_reads_captions_of_all_shards_but_no_images(tmp_path, monkeypatch):
    folder = benchmark_folders.webperson(tmp_path)
    read = []
    plain = parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        parquet.ParquetFile,
        "iter_batches",
        lambda self, size, columns: read.append((size, columns)) or plain(self, size, columns=columns),
    )
    rows = list(read_webperson(str(folder / "data" / "train-00000-of-00002.parquet")))
    assert [number for number, _ in rows] == list(range(10))
    assert rows[7][1] == {
        "file_path": "00001/00000007.jpg",
        "captions": benchmark_folders.captions(7)[:2],
        "id": 7,
    }
    assert read == [(4096, ["image_path", "caption1", "caption2"])] * 2


def test_a_missing_caption_and_a_missing_shard_are_fine_but_told(tmp_path, capsys):
    rows = [{"image_path": f"{n}.jpg", "caption1": "one", "caption2": "two" if n else None} for n in range(2)]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "train-00000-of-00009.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert [row["captions"] for _, row in read_webperson(str(path))] == [["one"], ["one", "two"]]
    assert f"note: {tmp_path}/data: holds 1 of 9 files train-*.parquet" in capsys.readouterr().err


def test_damaged_and_foreign_parquet_files_are_errors(tmp_path):
    path = tmp_path / "train-00000-of-00001.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"00001.parquet: cannot be read \(.*\): download it again"):
        list(read_webperson(str(path)))
    parquet.write_table(pyarrow.Table.from_pylist([{"image_path": "a.jpg", "caption1": "x"}]), path)
    with pytest.raises(UserError, match=r"00001.parquet: has no column 'caption2': get the published files"):
        list(read_webperson(str(path)))


def test_missing_images_name_what_to_do(tmp_path):
    folder = benchmark_folders.webperson(tmp_path, unpacked=False)
    with pytest.raises(
        UserError, match=r"00000000.jpg: no such image.*data.unpack_webperson DIR` writes them"
    ):
        load_all(folder, "webperson")
    assert datasets.DATASETS["webperson"].get_images != datasets.DATASETS["ham_pedes"].get_images
