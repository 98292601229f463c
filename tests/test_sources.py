"""Where a data set lies and which splits it has."""

import json

import pytest

from tpr_jax.data import mini_pedes, records, sources
from tpr_jax.errors import UserError


def test_folders():
    assert sources.data_folder("mini_pedes", "") == mini_pedes.bundled_dir()
    assert sources.data_folder("cuhk_pedes", "") == "data/CUHK-PEDES"
    assert sources.data_folder("icfg_pedes", "") == "data/ICFG-PEDES"
    assert sources.data_folder("rstp_reid", "") == "data/RSTPReid"
    assert sources.data_folder("mini_pedes", "/else/where") == "/else/where"


def test_splits(tiny):
    splits = sources.load_splits("cuhk_pedes", tiny["data"])
    assert list(splits) == ["train", "val", "test"]
    assert [len(splits[name].image_paths) for name in splits] == [24, 12, 16]
    assert splits["val"].name == "data:val"


def test_the_annotation_is_read_once(tiny, monkeypatch):
    parse, parsed = json.load, []
    monkeypatch.setattr(records.json, "load", lambda file: parsed.append(file.name) or parse(file))
    sources.load_splits("cuhk_pedes", tiny["data"])
    assert parsed == [f"{tiny['data']}/reid_raw.json"]


@pytest.mark.parametrize("gone", ["val", "train", "test"])
def test_only_val_may_be_missing(own_data, gone):
    path = own_data / "reid_raw.json"
    path.write_text(json.dumps([e for e in json.loads(path.read_text()) if e["split"] != gone]))
    if gone == "val":
        assert list(sources.load_splits("cuhk_pedes", str(own_data))) == ["train", "test"]
        return
    with pytest.raises(UserError, match=f"{own_data} has no record of split '{gone}'"):
        sources.load_splits("cuhk_pedes", str(own_data))
