"""MiniPEDES: the data set on disk, the command, resuming, and the bundled copy."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tpr_jax.data.mini_pedes import bundled_dir, generate
from tpr_jax.data.mini_pedes.__main__ import main
from tpr_jax.data.mini_pedes.generate import make_example, split_sizes, words_of
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
