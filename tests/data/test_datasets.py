"""Where a data set lies and which splits it has."""

import json

import pytest

from tests import benchmark_folders
from tpr_jax.data import annotations, datasets, mini_pedes
from tpr_jax.errors import UserError


def test_folders():
    assert datasets.data_folder("mini_pedes", "") == mini_pedes.bundled_dir()
    assert datasets.data_folder("cuhk_pedes", "") == "data/CUHK-PEDES"
    assert datasets.data_folder("icfg_pedes", "") == "data/ICFG-PEDES"
    assert datasets.data_folder("rstp_reid", "") == "data/RSTPReid"
    assert datasets.data_folder("mini_pedes", "/else/where") == "/else/where"


def test_splits(tiny):
    splits = datasets.load_splits("cuhk_pedes", tiny["data"])
    assert list(splits) == ["train", "val", "test"]
    assert [len(splits[name].image_paths) for name in splits] == [24, 12, 16]
    assert splits["val"].name == "data:val"


def test_the_annotation_is_read_once(tiny, monkeypatch):
    parse, parsed = json.load, []
    monkeypatch.setattr(
        annotations.json, "load", lambda file, **hooks: parsed.append(file.name) or parse(file, **hooks)
    )
    datasets.load_splits("cuhk_pedes", tiny["data"])
    assert parsed == [f"{tiny['data']}/reid_raw.json"]


@pytest.mark.parametrize("gone", ["val", "train", "test"])
def test_only_val_may_be_missing(own_data, gone):
    path = own_data / "reid_raw.json"
    path.write_text(json.dumps([e for e in json.loads(path.read_text()) if e["split"] != gone]))
    if gone == "val":
        assert list(datasets.load_splits("cuhk_pedes", str(own_data))) == ["train", "test"]
        return
    with pytest.raises(UserError, match=f"{own_data} has no record of split '{gone}'"):
        datasets.load_splits("cuhk_pedes", str(own_data))


@pytest.mark.parametrize("dataset", ["cuhk_pedes", "icfg_pedes", "rstp_reid", "ufine6926", "folder"])
def test_every_data_set_by_its_name(dataset, tmp_path):
    splits = datasets.load_splits(dataset, str(benchmark_folders.ALL[dataset](tmp_path / "copy")))
    vals = ["val"] if dataset not in ("icfg_pedes", "ufine6926") else []
    assert list(splits) == ["train", *vals, "test"]
    described = datasets.describe(dataset, splits)
    assert described["counts"]["train"]["identities"] == 4
    if dataset == "folder":
        assert described["subset"] is None
    else:
        assert all("; officially " in line for line in described["subset"]) and described["subset"]


def test_own_data_needs_a_folder():
    with pytest.raises(UserError, match="config.data_dir is missing"):
        datasets.data_folder("folder", "")


def test_data_sets_without_test_are_for_mixing(tmp_path):
    own, more = benchmark_folders.own_folder(tmp_path / "own"), benchmark_folders.synth_pedes(tmp_path / "s")
    with pytest.raises(UserError, match="no record of split 'test'"):
        datasets.load_splits("synth_pedes", str(more))
    splits = datasets.load_splits("folder", str(own))
    assert datasets.with_mixed(splits, ()) is splits
    mixed = datasets.with_mixed(splits, (("synth_pedes", str(more), 0.5),))
    assert mixed["test"] is splits["test"]
    train = mixed["train"]
    assert len(train.image_paths) == 10 + 8 and len(set(train.pids.tolist())) == 4 + 4
    assert train.passes.tolist() == [1.0] * 10 + [0.5] * 8
    rstp = benchmark_folders.rstp_reid(tmp_path / "r")
    path = rstp / "data_captions.json"
    path.write_text(json.dumps([e for e in json.loads(path.read_text()) if e["split"] != "train"]))
    with pytest.raises(UserError, match="r has no record of split 'train', so config.mix has no use for it"):
        datasets.with_mixed(splits, (("rstp_reid", str(rstp), 1),))


def test_missing_pictures_only_where_that_is_asked_for(own_data):
    (own_data / "imgs" / "1_0.jpg").unlink()
    with pytest.raises(UserError, match="1_0.jpg: no such picture"):
        datasets.load_splits("cuhk_pedes", str(own_data))
    assert len(datasets.load_splits("cuhk_pedes", str(own_data), missing_ok=True)["train"].image_paths) == 24
