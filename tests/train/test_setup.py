"""The checks of `prepare`, and their order."""

import pytest

from tpr_jax.errors import UserError
from tpr_jax.train import setup
from tpr_jax.weights import hub


def test_checks_the_data_before_it_looks_for_the_backbone(make_config, tmp_path, monkeypatch):
    """A hub id may mean a download of hundreds of MB, which a missing folder must not wait for."""
    asked = []
    for name in ("find", "_download"):
        monkeypatch.setattr(hub, name, lambda *args, **settings: asked.append(args))
    missing = tmp_path / "missing"
    config = make_config(backbone="openai/clip-vit-base-patch16", data_dir=missing)
    with pytest.raises(UserError, match=f"{missing}: no such folder: set data_dir"):
        setup.prepare(config)
    assert asked == []


@pytest.mark.parametrize("dataset", ["mini_pedes", "cuhk_pedes"])
def test_names_the_folder_of_data_that_shares_a_name_with_the_bundled_one(make_config, tiny, dataset):
    config = make_config(dataset=dataset, data_dir=tiny["data"])
    data = setup.prepare(config, to_train=False).data
    assert data.get("folder") == (tiny["data"] if dataset == "mini_pedes" else None)
    assert list(data["annotations"]) == list(data["counts"])


def test_does_not_name_the_folder_of_the_bundled_data(make_config):
    data = setup.prepare(make_config(dataset="mini_pedes", data_dir=""), to_train=False).data
    assert "folder" not in data and data["counts"]["test"]["identities"] == 250
