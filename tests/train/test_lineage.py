"""The data sets that a run and its predecessors were trained on."""

import json

import pytest
from ml_collections import ConfigDict

from tpr_jax.train import lineage
from tpr_jax.train.loop import train
from tpr_jax.train.provenance import backbone_facts
from tpr_jax.train.setup import prepare


@pytest.fixture
def write_run(tmp_path):
    def write(name, dataset, backbone, mix=()):
        config = {"dataset": dataset, "mix": list(mix), "method": {}, "losses": {}, "backbone": backbone}
        (tmp_path / name / "model").mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        return config

    return write


def test_names_the_sets_of_earlier_runs_in_their_order(write_run, tmp_path):
    write_run("first", "synth_pedes", "clip-mini", [["rstp_reid", "d", 0.5]])
    write_run("second", "icfg_pedes", str(tmp_path / "first" / "model"))
    third = write_run("third", "icfg_pedes", str(tmp_path / "second"))
    assert lineage.trained_on(third) == ("icfg_pedes", "synth_pedes", "rstp_reid")
    assert lineage.of_backbone(str(tmp_path / "first")) == ("synth_pedes", "rstp_reid")
    assert lineage.trained_on(third, depth=0) == ("icfg_pedes",)


def test_a_run_that_names_itself_ends(write_run, tmp_path):
    config = write_run("run", "cuhk_pedes", str(tmp_path / "run"))
    assert lineage.trained_on(config) == ("cuhk_pedes",)


def test_a_name_has_nothing_to_do_with_the_current_folder(write_run, tmp_path, monkeypatch):
    write_run("run", "cuhk_pedes", "clip-mini")
    monkeypatch.chdir(tmp_path / "run")
    assert lineage.of_backbone("clip-mini") == () and lineage.of_backbone("model") == ("cuhk_pedes",)


def test_a_run_from_random_weights_has_no_predecessor(write_run, tmp_path):
    write_run("first", "synth_pedes", "clip-mini")
    config = write_run("second", "icfg_pedes", str(tmp_path / "first"))
    assert lineage.trained_on(config) == ("icfg_pedes", "synth_pedes")
    assert lineage.trained_on(config | {"from_scratch": True}) == ("icfg_pedes",)


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '{"model_type": "clip"}', '{"dataset": "cuhk_pedes"}'),
        '{"dataset": ["a"], "mix": [], "method": {}, "losses": {}}',
        '{"dataset": "a", "mix": null, "method": {}, "losses": {}}',
        '{"dataset": "a", "mix": [1], "method": {}, "losses": {}}',
    ],
)
def test_other_folders_are_no_runs(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert lineage.of_backbone(str(tmp_path)) == lineage.of_backbone("clip-mini") == ()


def test_a_run_from_the_model_of_another_says_so(make_config, tmp_path):
    """Only if it uses the weights."""
    settings = {"image_size": (48, 16), "total_steps": 1, "eval_every": 0, "optimizer__lr": 0.01}
    config = make_config(losses__balance=0.0, **settings)
    config.method = ConfigDict({"name": "full_finetune"})
    first = train(config, tmp_path / "first")
    assert "trained_on" not in first["backbone"]
    backbone = tmp_path / "first"
    found = backbone_facts(prepare(make_config(backbone=backbone)))
    assert found["trained_on"] == ["cuhk_pedes"]
    assert "trained_on" not in backbone_facts(prepare(make_config(backbone=backbone, from_scratch=True)))
