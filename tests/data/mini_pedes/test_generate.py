"""MiniPEDES: the data set on disk, the command, resuming, and the bundled copy."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tpr_jax.data.mini_pedes import bundled_dir, generate
from tpr_jax.data.mini_pedes.__main__ import main
from tpr_jax.data.mini_pedes.generate import make_example, split_sizes, words_of
from tpr_jax.data.records import load_records
from tpr_jax.errors import UserError

SMALL = {"identities": 2, "size": (64, 32), "progress": False}


def _files(folder) -> dict[str, bytes]:
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            with open(path, "rb") as f:
                found[os.path.relpath(path, folder)] = f.read()
    return found


def test_output_depends_on_the_seed_not_on_the_processes(tmp_path):
    generate.generate(str(tmp_path / "one"), split="val", processes=1, **SMALL)
    generate.generate(str(tmp_path / "two"), split="val", processes=2, **SMALL)
    generate.generate(str(tmp_path / "other"), split="val", seed=1, **SMALL)
    one, two, other = (_files(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two and len(one) == 9
    assert one["reid_raw.json"] != other["reid_raw.json"]


def test_format_and_disjoint_ids(tmp_path):
    records = generate.generate(str(tmp_path), split="all", **SMALL)
    with open(tmp_path / "reid_raw.json", encoding="utf-8") as f:
        assert json.load(f) == records
    ids = {}
    for record in records:
        assert set(record) == {"split", "captions", "file_path", "processed_tokens", "id"}
        with Image.open(tmp_path / "imgs" / record["file_path"]) as picture:
            assert picture.size == (32, 64) and picture.mode == "RGB"
        assert len(record["captions"]) == 2
        assert record["processed_tokens"] == [words_of(text) for text in record["captions"]]
        ids.setdefault(record["split"], []).append(record["id"])
    assert set(ids) == {"train", "val", "test"} and min(min(v) for v in ids.values()) == 1
    assert not set(ids["train"]) & set(ids["val"]) and not set(ids["test"]) & set(ids["train"] + ids["val"])
    assert all(ids[split].count(i) == 4 for split in ids for i in ids[split])


def test_splits_generated_separately_have_disjoint_ids():
    assert split_sizes("mini", "all", None) == {"train": 500, "val": 100, "test": 250}
    assert split_sizes("mini", "val", 10) == {"train": 50, "val": 10, "test": 25}


def test_words():
    assert words_of("A man, in a T-shirt.") == ["a", "man", "in", "a", "t-shirt"]


def test_resumes_a_stopped_run_with_the_same_result(tmp_path, monkeypatch):
    generate.generate(str(tmp_path / "whole"), split="val", **SMALL)
    out, real, calls = tmp_path / "cut", generate.make_example, []

    def stops(*args, **settings):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **settings)

    monkeypatch.setattr(generate, "make_example", stops)
    with pytest.raises(KeyboardInterrupt):
        generate.generate(str(out), split="val", **SMALL)
    assert not (out / "reid_raw.json").exists()
    generate.generate(str(out), split="val", **SMALL)
    assert len(calls) == 4 + 5  # the three finished pictures were kept
    assert _files(out) == _files(tmp_path / "whole")


def test_rejects_folders_with_other_content(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not an empty folder"):
        generate.generate(str(tmp_path), **SMALL)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_an_unfinished_run_of_other_settings_is_refused(tmp_path):
    (tmp_path / generate.STATE).write_text('{"seed": 9}')
    with pytest.raises(UserError, match="other settings"):
        generate.generate(str(tmp_path), **SMALL)


@pytest.mark.parametrize(
    ("flags", "word"),
    [(["--size", "192"], "--size"), (["--identities", "0"], "--identities"), (["--seed", "-1"], "--seed")],
)
def test_the_command_reports_mistakes_in_one_line(tmp_path, capsys, flags, word):
    assert main(["--out", str(tmp_path / "x"), *flags]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_the_command(tmp_path):
    flags = [
        "--split",
        "test",
        "--identities",
        "1",
        "--size",
        "48x16",
        "--processes",
        "1",
        "--domain",
        "pretrain",
    ]
    command = [sys.executable, "-m", "tpr_jax.data.mini_pedes", "--out", str(tmp_path / "new"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "4 images of 1 person" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and "Traceback" not in again.stderr


def test_bundled_set_is_complete_and_small():
    with open(os.path.join(bundled_dir(), "reid_raw.json"), encoding="utf-8") as f:
        records = json.load(f)
    people = {split: {r["id"] for r in records if r["split"] == split} for split in ("train", "val", "test")}
    assert [len(people[s]) for s in ("train", "val", "test")] == [500, 100, 250]
    assert len(records) == 3400 and len(set.union(*people.values())) == 850
    folder = os.path.dirname(bundled_dir())
    size = sum(
        os.path.getsize(os.path.join(b, n))
        for b, _, ns in os.walk(folder)
        for n in ns
        if "__pycache__" not in b
    )
    assert size < 12e6
    assert all(os.path.exists(os.path.join(bundled_dir(), "imgs", r["file_path"])) for r in records)
    for record in records[::1133]:
        view = int(record["file_path"][-5])
        first = min(people[record["split"]])
        example = make_example(0, "mini", record["split"], record["id"] - first, view, size=(192, 64))
        assert example["captions"] == record["captions"]
        with Image.open(os.path.join(bundled_dir(), "imgs", record["file_path"])) as picture:
            kept = np.asarray(picture).astype(float)
        assert np.abs(kept - example["image"]).mean() < 8  # JPEG's loss only


@pytest.fixture(scope="module")
def hard_examples():
    """The first eight people of test of the hard set: a group of four, and four others."""
    return [make_example(0, "hard", "test", i, 0, size=(192, 64)) for i in range(8)]


def test_hard_sizes():
    assert split_sizes("hard", "all", None) == {"train": 1000, "val": 200, "test": 2000}


def test_hard_look_alikes(hard_examples):
    group, others = hard_examples[:4], hard_examples[4:]
    assert {e["group"] for e in group} == {0} and len({e["differs"] for e in group}) == 1
    assert all(e["group"] is e["differs"] is None for e in others)
    part = group[0]["differs"].removesuffix("_color")
    values = {json.dumps(e["person"][part]) for e in group}
    assert len(values) == 4
    assert len({json.dumps(e["person"] | {part: None}, sort_keys=True) for e in group}) == 1
    assert len({json.dumps(e["person"] | {part: None}, sort_keys=True) for e in others}) == 4
    for example in group:
        assert all(example["differs"] in named for named in example["named"])
        assert example["differs"] in example["seen"]


def test_hard_wording_of_each_split(hard_examples):
    only_train = re.compile(r"wear(s|ing)|carr(ies|ying)|trousers|grey|t-shirt", re.IGNORECASE)
    only_test = re.compile(r"dressed in|has on|having|pants|gray|tee shirt", re.IGNORECASE)
    examples = [
        make_example(0, "hard", split, i, 0, size=(96, 32)) for split in ("train", "val") for i in (4, 5)
    ]
    texts = [text for example in examples for text in example["captions"]]
    assert all(only_train.search(text) and not only_test.search(text) for text in texts)
    texts = [text for example in hard_examples for text in example["captions"]]
    assert all(only_test.search(text) and not only_train.search(text) for text in texts)


def test_hard_images_depend_on_every_key():
    def image(seed, split, identity, view):
        return make_example(seed, "hard", split, identity, view, size=(192, 64))["image"].tobytes()

    keys = [(0, "train", 4, 0), (0, "train", 4, 1), (0, "train", 5, 0), (0, "test", 4, 0), (1, "train", 4, 0)]
    assert len({image(*key) for key in keys}) == 5 and image(*keys[0]) == image(*keys[0])


def test_a_hard_set(tmp_path):
    small = {"split": "all", "identities": 4, "domain": "hard", "size": (96, 32), "progress": False}
    records = generate.generate(str(tmp_path / "one"), processes=1, **small)
    generate.generate(str(tmp_path / "two"), processes=2, **small)
    one, two = (_files(tmp_path / name) for name in ("one", "two"))
    assert one == two and len(one) == 18
    assert json.loads(one["reid_raw.json"]) == records
    by_split = {s: [r for r in records if r["split"] == s] for s in ("train", "val", "test")}
    ids = {split: {r["id"] for r in found} for split, found in by_split.items()}
    assert [len(by_split[s]) for s in by_split] == [8, 1, 8] and [len(ids[s]) for s in ids] == [4, 1, 8]
    assert len(set.union(*ids.values())) == 13
    for record in records:
        assert record["processed_tokens"] == [words_of(text) for text in record["captions"]]
        assert set(record["hard"]) <= {"crowded", "occluded", "night", "blurred", "low resolution", "jpeg"}
        assert ("group" in record) == ("differs" in record) and ("wrong" in record) == (
            record["split"] == "train"
        )
    groups = {}
    for record in by_split["test"]:
        if "group" in record:
            groups.setdefault(record["group"], set()).add(record["id"])
    assert groups == {6: {6, 7, 8, 9}}
    assert sum(len(r["wrong"]) for r in by_split["train"]) == 2  # a tenth of 16
    described = {}
    for record in by_split["train"]:
        for j, text in enumerate(record["captions"]):
            described.setdefault(text, set()).add((record["id"], j in record["wrong"]))
    example = make_example(0, "hard", "train", 0, 0, size=(96, 32))
    kept = [t for j, t in enumerate(example["captions"]) if j not in by_split["train"][0]["wrong"]]
    assert kept and all((1, False) in described[text] for text in kept)


def test_training_reads_a_hard_set(tmp_path):
    generate.generate(str(tmp_path), split="val", identities=2, domain="hard", size=(96, 32), progress=False)
    records = load_records(str(tmp_path), "val")
    assert len(records.image_paths) == 2 and [len(texts) for texts in records.captions] == [2, 2]


def test_the_command_makes_a_hard_set(tmp_path, capsys):
    flags = ["--split", "test", "--identities", "1", "--size", "48x16", "--processes", "1"]
    assert main(["--out", str(tmp_path / "hard"), "--hard", *flags]) == 0
    assert "1 image of 1 person" in capsys.readouterr().out
    (record,) = json.loads((tmp_path / "hard" / "reid_raw.json").read_text())
    assert "hard" in record and record["group"] == record["id"]
    assert main(["--out", str(tmp_path / "mini"), *flags]) == 0
    records = json.loads((tmp_path / "mini" / "reid_raw.json").read_text())
    assert len(records) == 4 and all("hard" not in record for record in records)


def test_hard_has_a_domain_of_its_own(tmp_path, capsys):
    flags = ["--split", "test", "--identities", "1", "--size", "48x16", "--processes", "1"]
    assert main(["--out", str(tmp_path / "x"), "--hard", "--domain", "street", *flags]) == 2
    error = capsys.readouterr().err
    assert "--hard" in error and "leave out --domain street" in error and error.count("\n") == 1
    assert not (tmp_path / "x").exists()
