"""Each benchmark's layout, read from small folders in exactly that layout."""

import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests import benchmark_folders
from tpr_jax.data import annotations, datasets
from tpr_jax.data.images.read import read_image
from tpr_jax.data.records import caption_pairs, image_sources, load_all
from tpr_jax.errors import UserError

BENCHMARKS = [name for name in benchmark_folders.ALL if name != "folder"]
MACHINE_CAPTIONED = ("luperson_mllm", "ham_pedes", "webperson")  # whose annotation is no list of records
# (identities, images, captions) of a split, worked out from the fixture by hand: 4, 2 and 3 identities.
EXPECTED = {
    # Pictures 0-7, 8-11, 12-17; a third caption for 0, 5, 10 and 15.
    "cuhk_pedes": {"train": (4, 8, 18), "val": (2, 4, 9), "test": (3, 6, 13)},
    "icfg_pedes": {"train": (4, 12, 12), "test": (3, 9, 9)},
    "rstp_reid": {"train": (4, 20, 40), "val": (2, 10, 20), "test": (3, 15, 30)},
    "ufine6926": {"train": (4, 8, 16), "test": (3, 6, 12)},
    # Captions 1 + number % 3, but there are at most 2 where number % 5 is not 0: 1 2 2 1 2 3 1 2.
    "synth_pedes": {"train": (4, 8, 14)},
    # Ten images with four captions each, of which one is an unfilled template and one is empty.
    "luperson_mllm": {"train": (10, 10, 38)},
    "ham_pedes": {"train": (10, 10, 20)},
    "webperson": {"train": (10, 10, 20)},
}


@pytest.mark.parametrize("dataset", BENCHMARKS)
def test_every_layout(dataset, tmp_path):
    splits = load_all(benchmark_folders.ALL[dataset](tmp_path / "data"), dataset)
    found = {
        name: (len(set(r.pids.tolist())), len(r.image_paths), len(caption_pairs(r)[1]))
        for name, r in splits.items()
    }
    assert found == EXPECTED[dataset]
    for records in splits.values():
        for source in image_sources(records):
            image = read_image(source)
            assert image.shape[0] > image.shape[1]  # upright, whatever its EXIF and its kind of pixels
    first = min(records.pids.min() for records in splits.values())
    assert first == (1 if dataset in ("cuhk_pedes", "ufine6926", "synth_pedes") else 0)


def test_fixture_contains_the_oddities(tmp_path):
    """Without the oddities, the tests above would prove less."""
    folder = benchmark_folders.cuhk_pedes(tmp_path)
    kinds = set()
    for path in (folder / "imgs").rglob("*.jpg"):
        with Image.open(path) as picture:
            kinds.add((picture.format, picture.mode, picture.getexif().get(0x0112)))
    assert kinds == {("JPEG", "RGB", None), ("JPEG", "L", None), ("JPEG", "CMYK", None), ("JPEG", "RGB", 6)}
    entries = json.loads((folder / "reid_raw.json").read_text())
    assert {"processed_tokens" in entry for entry in entries} == {True, False}


@pytest.mark.parametrize(
    "name", ["ICFG-PEDES.json", "ICFG_PEDES.json", "ICFG.json", "annotations/ICFG-PEDES.json"]
)
def test_reads_icfg_pedes_under_each_of_its_names(tmp_path, name):
    splits = load_all(benchmark_folders.icfg_pedes(tmp_path, name), "icfg_pedes")
    # The record's split decides: pictures of either lie in both folders.
    for records in splits.values():
        assert {path.split("/imgs/")[1].split("/")[0] for path in records.image_paths} == {"train", "test"}


def test_reads_the_first_existing_annotation(tmp_path):
    benchmark_folders.icfg_pedes(tmp_path)
    (tmp_path / "ICFG_PEDES.json").write_text("[]")
    assert list(load_all(tmp_path, "icfg_pedes")) == ["train", "test"]


def test_rstp_reid_names_its_own_field(tmp_path):
    folder = benchmark_folders.rstp_reid(tmp_path)
    entries = json.loads((folder / "data_captions.json").read_text())
    entries[4]["file_path"] = entries[4].pop("img_path")
    (folder / "data_captions.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match=r"data_captions.json: record 4: field 'img_path' is missing"):
        load_all(folder, "rstp_reid")


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ("icfg_pedes", r"ICFG-PEDES.json: no such file: .* \(or ICFG_PEDES.json, .* the images in imgs/$"),
        ("rstp_reid", "data_captions.json: no such file: .* the images in imgs/$"),
        ("synth_pedes", "synthpedes_dataset.json: no such file: .* and the images$"),
        ("luperson_mllm", r"Ts-qwen.json: no such file: .* \(or caption/Ts-qwen.json, .* in LUPerson-MLLM/$"),
        ("ham_pedes", "random100w_2HAMcaptions.json: no such file: .* and the images$"),
        ("webperson", r"data/train-00000-\*.parquet: no such file: .* and the images in images/$"),
        ("folder", r"captions.jsonl: no such file: .*captions.jsonl \(or captions.csv\) and the images$"),
    ],
)
def test_no_annotation(tmp_path, dataset, told):
    with pytest.raises(UserError, match=told):
        load_all(tmp_path, dataset)


def test_rejects_two_candidate_annotations(tmp_path):
    folder = benchmark_folders.ufine6926(tmp_path)
    (folder / "other.json").write_text("[]")
    with pytest.raises(UserError, match=r"holds 2 files \*.json: leave only the annotation"):
        load_all(folder, "ufine6926")


def test_ignores_hidden_files_beside_the_annotation(tmp_path):
    folder = benchmark_folders.ufine6926(tmp_path)
    read = annotations.annotation_path("ufine6926", folder)
    (folder / "._u.json").write_text("Mac OS X")
    assert annotations.annotation_path("ufine6926", folder) == read
    (folder / "z.json").write_text("[]")
    with pytest.raises(UserError, match=rf"annotation there: {os.path.basename(read)}, z.json"):
        annotations.annotation_path("ufine6926", folder)


def test_finds_all_problems(tmp_path):
    folder = benchmark_folders.cuhk_pedes(tmp_path)
    path = folder / "reid_raw.json"
    entries = json.loads(path.read_text())
    entries[1]["captions"] = ["", "a man", "  "]
    entries[3]["split"] = "training"
    del entries[5]["id"]
    entries[7] = "text"
    path.write_text(json.dumps(entries))
    found, problems = annotations.read_entries("cuhk_pedes", folder)
    assert [problem.kind for problem in problems] == ["empty captions"] * 2 + ["records"] * 3
    assert [f"record {n}: " in p.message for n, p in zip((1, 1, 3, 5, 7), problems, strict=True)] == [
        True
    ] * 5
    assert len(found) == len(entries) - 3
    assert found[1].captions == ["a man"]
    with pytest.raises(UserError, match="record 1: field 'captions', item 0 is empty"):
        load_all(folder)


def test_grayscale_and_cmyk_come_out_in_color(tmp_path):
    """The picture drawn gray is gray, the CMYK one has its colors."""
    folder = benchmark_folders.cuhk_pedes(tmp_path)
    gray, cmyk = (read_image(folder / "imgs" / "CUHK03" / f"{n}.jpg").astype(int) for n in (1, 2))
    assert np.ptp(gray, axis=2).max() == 0
    blue, red = cmyk[: len(cmyk) // 2 - 8].mean((0, 1)), cmyk[len(cmyk) // 2 + 8 :].mean((0, 1))
    assert np.abs(blue - (30, 50, 200)).max() < 12 and np.abs(red - (200, 30, 30)).max() < 12


@pytest.mark.parametrize("dataset", [name for name in BENCHMARKS if name not in MACHINE_CAPTIONED])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_paths_made_on_windows_and_on_a_mac(dataset, form, tmp_path):
    """Paths with backslashes and in the other Unicode form than the names on disk."""
    folder = benchmark_folders.ALL[dataset](tmp_path / "data")
    path = annotations.annotation_path(dataset, folder)
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)
    layout = datasets.DATASETS[dataset]
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    for entry in entries[:2]:
        name = entry[layout.path_field]
        new = f"Zo\u00eb/{name}"
        there = folder / layout.images / unicodedata.normalize(form, new)
        there.parent.mkdir(parents=True, exist_ok=True)
        (folder / layout.images / name).rename(there)
        entry[layout.path_field] = unicodedata.normalize(other, new).replace("/", "\\")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(entries, file)
    found, problems = annotations.read_entries(dataset, folder)
    assert problems == [] and all(os.path.isfile(entry.image) for entry in found)


def test_rejects_a_repeated_field(tmp_path):
    folder = benchmark_folders.cuhk_pedes(tmp_path)
    path = folder / "reid_raw.json"
    first, second, *_ = json.loads(path.read_text())
    twice = json.dumps(second)[:-1] + ', "captions": ["another"]}'
    path.write_text(f"[{json.dumps(first)}, {twice}]")
    with pytest.raises(UserError, match=r"reid_raw.json: record 1: names field 'captions' twice"):
        load_all(folder)


@pytest.mark.parametrize("name", ["a\0.jpg", "\ud83d.jpg"], ids=ascii)
def test_rejects_names_that_no_file_can_have(tmp_path, name):
    folder = benchmark_folders.cuhk_pedes(tmp_path)
    path = folder / "reid_raw.json"
    entries = json.loads(path.read_text())
    entries[2]["file_path"] = name
    path.write_text(json.dumps(entries))
    with pytest.raises(UserError, match=r"record 2: field 'file_path' is '.*': no file can have that name"):
        load_all(folder)


def test_files_that_determine_the_records(tmp_path):
    own, other = (
        benchmark_folders.own_folder(tmp_path / "own"),
        benchmark_folders.rstp_reid(tmp_path / "rstp"),
    )
    assert annotations.annotation_files("folder", own) == [own / "captions.jsonl"]
    for folder in (own, other):
        (folder / "splits.csv").write_text("id,split\n")
    assert annotations.annotation_files("folder", own) == [own / "captions.jsonl", own / "splits.csv"]
    (own / "splits.csv").rename(own / "Splits.csv")
    assert annotations.annotation_files("folder", own) == [own / "captions.jsonl", own / "Splits.csv"]
    assert annotations.annotation_files("rstp_reid", other) == [other / "data_captions.json"]


def test_the_captions_file_in_any_case(tmp_path):
    for name in ("Captions.CSV", "CAPTIONS.csv"):
        (tmp_path / name).write_text("")
        if name == "Captions.CSV":
            assert annotations.annotation_path("folder", tmp_path) == str(tmp_path / name)
    with pytest.raises(UserError, match=r"holds 2 files captions\.csv"):
        annotations.annotation_path("folder", tmp_path)
    (tmp_path / "captions.csv").write_text("")
    assert annotations.annotation_path("folder", tmp_path) == str(tmp_path / "captions.csv")


@pytest.mark.parametrize("dataset", ["cuhk_pedes", "folder"])
@pytest.mark.parametrize("caption", ["\ufeff", "&nbsp;", "\x07", "\u200b"], ids=ascii)
def test_a_caption_that_shows_nothing_is_empty(dataset, caption, tmp_path):
    record = {"image": "a.jpg", "file_path": "a.jpg", "caption": caption, "captions": [caption, "a man"]}
    record |= {"id": 1, "split": "train"}
    if dataset == "folder":
        (tmp_path / "captions.jsonl").write_text(json.dumps(record))
    else:
        (tmp_path / "reid_raw.json").write_text(json.dumps([record]))
    [entry], [problem] = annotations.read_entries(dataset, tmp_path)
    assert problem.kind == "empty captions" and "item 0 is empty" in problem.message
    assert entry.captions == ([] if dataset == "folder" else ["a man"])


@pytest.mark.parametrize(
    ("chosen", "other"),
    [
        ("ICFG-PEDES.json", "ICFG_PEDES.json"),
        ("ICFG-PEDES.json", "icfg.JSON"),
        ("ICFG.json", "annotations/ICFG-PEDES.json"),
    ],
)
def test_names_a_second_annotation_that_is_not_read(tmp_path, capsys, chosen, other):
    folder = benchmark_folders.icfg_pedes(tmp_path / "data", chosen)
    (folder / other).parent.mkdir(exist_ok=True)
    (folder / other).write_text("[]")
    assert annotations.unread_annotations("icfg_pedes", folder) == [
        f"{folder}/{other}: is not read, since {chosen} is: keep one of them"
    ]
    load_all(folder, "icfg_pedes")
    assert f"note: {folder}: {chosen} is read, {other} is not: keep one of them" in capsys.readouterr().err


def test_a_second_name_of_the_annotation_is_no_second_annotation(tmp_path):
    folder = benchmark_folders.icfg_pedes(tmp_path / "data", "ICFG-PEDES.json")
    (folder / "ICFG.json").symlink_to(folder / "ICFG-PEDES.json")
    assert annotations.unread_annotations("icfg_pedes", folder) == []
