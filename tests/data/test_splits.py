"""Loading the splits of a data set by its name, mixing in further ones, and counting them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests import benchmark_folders
from tpr_jax.data import splits as splits_lib
from tpr_jax.data import text_files
from tpr_jax.data.records import Records, load_all
from tpr_jax.errors import UserError
from tpr_jax.utils.notices import print_once


def test_loads_the_splits_of_a_folder(tiny):
    splits = splits_lib.load_splits("cuhk_pedes", tiny["data"])
    assert list(splits) == ["train", "val", "test"]
    assert [len(splits[name].image_paths) for name in splits] == [24, 12, 16]
    assert splits["val"].name == "data:val"


def test_the_annotation_is_read_once(tiny, monkeypatch):
    parse, parsed = json.load, []
    monkeypatch.setattr(
        text_files.json, "load", lambda file, **hooks: parsed.append(file.name) or parse(file, **hooks)
    )
    splits_lib.load_splits("cuhk_pedes", tiny["data"])
    assert parsed == [f"{tiny['data']}/reid_raw.json"]


@pytest.mark.parametrize("gone", ["val", "train", "test"])
def test_requires_train_and_test(own_data, gone):
    path = own_data / "reid_raw.json"
    path.write_text(json.dumps([e for e in json.loads(path.read_text()) if e["split"] != gone]))
    if gone == "val":
        assert list(splits_lib.load_splits("cuhk_pedes", str(own_data))) == ["train", "test"]
        return
    with pytest.raises(UserError, match=f"{own_data} has no record of split '{gone}'"):
        splits_lib.load_splits("cuhk_pedes", str(own_data))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("a.png,c,1,train\n", "has no record of split 'test': add lines with split 'test'$"),
        ("a.png,c,1,test\n", "has no record of split 'train': add lines with split 'train'$"),
        ("", "has no records: add lines with split 'train'$"),
    ],
)
def test_says_which_lines_own_data_lack(tmp_path, lines, told):
    benchmark_folders.draw(tmp_path / "a.png", 0)
    (tmp_path / "captions.csv").write_text(f"image,caption,id,split\n{lines}")
    with pytest.raises(UserError, match=f"^{tmp_path} {told}"):
        splits_lib.load_splits("folder", str(tmp_path))


@pytest.mark.parametrize("dataset", ["cuhk_pedes", "icfg_pedes", "rstp_reid", "ufine6926", "folder"])
def test_loads_every_data_set_by_its_name(dataset, tmp_path):
    splits = splits_lib.load_splits(dataset, str(benchmark_folders.ALL[dataset](tmp_path / "copy")))
    vals = ["val"] if dataset not in ("icfg_pedes", "ufine6926") else []
    assert list(splits) == ["train", *vals, "test"]
    described = splits_lib.describe(dataset, splits)
    assert described["counts"]["train"]["identities"] == 4
    if dataset == "folder":
        assert described["subset"] is None
    else:
        assert all("; officially " in line for line in described["subset"]) and described["subset"]


def test_the_digest_of_annotations_is_that_of_people_and_captions():
    pids = np.array([1, 2], np.int64)
    records = Records("d:test", ["/a/1.jpg", "/a/2.jpg"], [["x"], ["y", "z"]], pids)
    digest = splits_lib.annotation_digest
    moved = replace(records, image_paths=["/b/1.jpg", "/b/2.jpg"], name="e:test", boxes=[None, (0, 0, 1, 2)])
    assert digest(records) == digest(moved)
    others = [
        replace(records, captions=[["y"], ["x", "z"]]),
        replace(records, captions=[["x", "y"], ["z"]]),
        replace(records, pids=pids[::-1]),
        replace(records, captions=records.captions[::-1], pids=pids[::-1]),
    ]
    assert len({digest(other) for other in [records, *others]}) == 5


def test_mixes_data_sets_without_a_test_split(tmp_path):
    own, more = benchmark_folders.own_folder(tmp_path / "own"), benchmark_folders.synth_pedes(tmp_path / "s")
    splits = splits_lib.load_splits("folder", str(own))
    assert splits_lib.with_mixed(splits, ()) is splits
    mixed = splits_lib.with_mixed(splits, (("synth_pedes", str(more), 0.5),))
    assert mixed["test"] is splits["test"]
    train = mixed["train"]
    assert len(train.image_paths) == 10 + 8 and len(set(train.pids.tolist())) == 4 + 4
    assert train.passes.tolist() == [1.0] * 10 + [0.5] * 8
    rstp = benchmark_folders.rstp_reid(tmp_path / "r")
    path = rstp / "data_captions.json"
    path.write_text(json.dumps([e for e in json.loads(path.read_text()) if e["split"] != "train"]))
    with pytest.raises(UserError, match=r"r has no record of split 'train', so config.mix cannot use it"):
        splits_lib.with_mixed(splits, (("rstp_reid", str(rstp), 1),))


def test_tells_of_photos_that_are_mixed_twice(tmp_path, capsys):
    own = str(benchmark_folders.own_folder(tmp_path / "own"))
    splits = splits_lib.load_splits("folder", own)
    capsys.readouterr()
    splits_lib.with_mixed(splits, (("folder", own, 1.0),))
    # One photo has two people in it, each of them an image.
    assert "note: config.mix: 9 photos of own:train are in own:train too: " in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["synth_pedes", "luperson_mllm", "ham_pedes", "webperson"])
def test_data_without_splits_holds_people_out(dataset, tmp_path, capsys):
    """All images stay, no identity is in two splits, and train has the first ones."""
    print_once.cache_clear()
    folder = benchmark_folders.ALL[dataset](tmp_path / "set")
    splits = splits_lib.load_splits(dataset, str(folder))
    whole = load_all(folder, dataset)["train"]
    pids = sorted(set(whole.pids.tolist()))
    assert {name: sorted(set(split.pids.tolist())) for name, split in splits.items()} == {
        "train": pids[:-2],
        "val": pids[-2:-1],
        "test": pids[-1:],
    }
    assert [split.name for split in splits.values()] == ["set:train", "set:val", "set:test"]
    assert sorted(p for s in splits.values() for p in s.image_paths) == sorted(whole.image_paths)
    told = f"set has no splits: of its {len(pids)} identities, the last 1 are test, and the 1 before them val"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("identities", "held_out"), [(3, 1), (19, 1), (20, 2), (9_999, 999), (10_000, 1_000), (30_000, 1_000)]
)
def test_at_most_a_tenth_and_a_thousand_people_are_held_out(identities, held_out):
    pids = np.random.default_rng(0).permutation(identities) * 3 + 5
    records = Records("set:train", [f"{pid}.jpg" for pid in pids], [["a"]] * identities, pids)
    splits = splits_lib.hold_out(records)
    assert len(splits["val"].pids) == len(splits["test"].pids) == held_out
    assert splits["train"].pids.max() < splits["val"].pids.min()
    assert splits["val"].pids.max() < splits["test"].pids.min()
    assert splits["val"].image_paths == [f"{pid}.jpg" for pid in splits["val"].pids]


def test_identities_that_share_a_photo_are_held_out_together(capsys):
    """11 shares the photo of 1, and 12 that of 11; without them, 10 is the last and 9 the one before."""
    print_once.cache_clear()
    pids = np.arange(1, 13)
    paths = [f"{pid}.jpg" for pid in pids.tolist()]
    paths += ["./1.jpg", "./11.jpg"]
    pids = np.array([*pids, 11, 12])
    splits = splits_lib.hold_out(Records("set:train", paths, [["a"]] * 14, pids))
    assert {name: split.pids.tolist() for name, split in splits.items()} == {
        "train": [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 11, 12],
        "val": [9],
        "test": [10],
    }
    told = (
        "of its 12 identities, the last 1 are test, and the 1 before them val; those that share a photo count"
    )
    assert told in capsys.readouterr().err


def test_two_people_are_too_few_for_three_splits():
    records = Records("set:train", ["a", "b"], [["x"], ["y"]], np.array([1, 2]))
    with pytest.raises(UserError, match="set has no splits and 2 identities, but train, val and test need"):
        splits_lib.hold_out(records)


def test_missing_ok_allows_missing_images(own_data):
    (own_data / "imgs" / "1_0.jpg").unlink()
    with pytest.raises(UserError, match=r"1_0.jpg: no such image"):
        splits_lib.load_splits("cuhk_pedes", str(own_data))
    assert (
        len(splits_lib.load_splits("cuhk_pedes", str(own_data), missing_ok=True)["train"].image_paths) == 24
    )


def test_counts_of_a_folder(tmp_path):
    splits = splits_lib.load_all(benchmark_folders.cuhk_pedes(tmp_path))
    assert splits_lib.count_records(splits) == {"train": (4, 8, 18), "val": (2, 4, 9), "test": (3, 6, 13)}
