"""The options of `--rerank` on a run: settings from val, the bank from train, and what is written."""

import json
import shutil

import numpy as np
import pytest

from tests.metrics.rerank.test_options import features
from tpr_jax.data import records as records_lib
from tpr_jax.errors import UserError
from tpr_jax.metrics import rerank as metrics_rerank
from tpr_jax.train import eval_run, rerank
from tpr_jax.train.evaluate import EncodedSplit, Evaluator
from tpr_jax.train.setup import prepare

NAMES = list(metrics_rerank.OPTIONS)


def encoded(seed: int) -> EncodedSplit:
    """Returns the split of `features`, with noise."""
    given, rng = features(), np.random.default_rng(seed)
    return EncodedSplit(
        query_feats=given.query + rng.normal(size=given.query.shape).astype(np.float32),
        query_pids=given.query_pids,
        captions=[""] * 30,
        gallery_feats=given.gallery,
        gallery_pids=given.gallery_pids,
        paths=[""] * 15,
        query_images=given.query_images,
    )


def by_hand(name, split, settings):
    """Returns the metrics of an option with some settings, by sorting its dense scores."""
    given = metrics_rerank.Features(
        split.query_feats,
        split.query_images,
        split.query_pids,
        split.gallery_feats,
        split.gallery_pids,
        features().bank,
    )
    ranking = metrics_rerank.OPTIONS[name].rank(given, **settings)
    scores = ranking.scores.dense().astype(np.float64)
    ranks = [
        [1 + int(np.argwhere(np.argsort(-row, kind="stable") == j)[0, 0]) for j in np.flatnonzero(same)]
        for row, same in zip(scores, ranking.query_pids[:, None] == split.gallery_pids, strict=True)
    ]
    return {
        "R1": 100 * np.mean([min(r) == 1 for r in ranks]),
        "mAP": 100 * np.mean([np.mean((np.arange(len(r)) + 1) / np.sort(r)) for r in ranks]),
    }


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_the_best_on_val_and_scored_on_test(name):
    splits, asked = {"val": encoded(1), "test": encoded(2)}, []
    found = rerank.score_options(splits, [name], lambda: asked.append(1) or features().bank)[name]
    option = metrics_rerank.OPTIONS[name]
    on_val = [by_hand(name, splits["val"], settings) for settings in option.grid]
    best = max((one["R1"], one["mAP"]) for one in on_val)
    assert (found["val"]["t2i"]["R1"], found["val"]["t2i"]["mAP"]) == pytest.approx(best)
    chosen = by_hand(name, splits["val"], found["settings"])
    assert (chosen["R1"], chosen["mAP"]) == pytest.approx(best) and found["settings"] in list(option.grid)
    assert found["chosen_on"] == ("val" if len(option.grid) > 1 else None)
    on_test = by_hand(name, splits["test"], found["settings"])
    assert {key: found["test"]["t2i"][key] for key in on_test} == pytest.approx(on_test)
    assert found["bank"] == (40 if option.needs_bank else 0)
    assert len(asked) == option.needs_bank
    assert (found["joint"], found["own_protocol"]) == (option.joint, option.own_protocol)
    assert found["num_queries"] == (15 if name == "captions" else 30)


def test_without_val_the_first_settings_count():
    found = rerank.score_options({"test": encoded(2)}, NAMES, lambda: features().bank)
    for name, one in found.items():
        assert one["settings"] == metrics_rerank.OPTIONS[name].grid[0]
        assert one["chosen_on"] is None and "val" not in one
    assert list(found) == NAMES


def test_table():
    plain = {"R1": 1.0, "R5": 2.0, "R10": 3.0, "mAP": 4.0, "mINP": 5.125}
    one = {"settings": {"k": 16, "alpha": 0.75}, "test": {"t2i": {**plain, "R1": 12.5}}}
    lines = rerank.options_table(plain, {"nnn": one, "captions": {**one, "settings": {}}}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["test", "R1", "R5", "R10", "mAP", "mINP", "settings", "note"]
    assert cells[2] == ["plain", "1.00", "2.00", "3.00", "4.00", "5.12", "", ""]
    assert cells[3] == ["nnn", "12.50", "2.00", "3.00", "4.00", "5.12", "k=16 alpha=0.75", ""]
    assert cells[4][0] == "captions" and cells[4][-1] == "own protocol: one query per image"


def test_no_training_split(make_config, own_data, tmp_path):
    entries = json.loads((own_data / "reid_raw.json").read_text())
    (own_data / "reid_raw.json").write_text(json.dumps([e for e in entries if e["split"] != "train"]))
    with pytest.raises(UserError, match="data has no record of split 'train'"):
        eval_run.evaluate_run(make_config(data_dir=own_data), tmp_path, initial=True, rerank=["nnn"])


def test_of_a_run(finished, make_config, tmp_path, capsys):
    """The other fields stay as they are; the bank is the captions of the training split."""
    workdir, _ = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    config = make_config()
    plain = eval_run.evaluate_run(config, copy)
    assert "rerank" not in plain and "after training" not in capsys.readouterr().out
    scored = eval_run.evaluate_run(config, copy, rerank=["nnn", "captions"])
    assert {key: value for key, value in scored.items() if key in ("val", "test", "step", "data")} == {
        key: value for key, value in plain.items() if key in ("val", "test", "step", "data")
    }
    assert set(scored) - set(plain) == {"rerank"} and list(scored["rerank"]) == ["nnn", "captions"]
    assert json.loads((copy / "eval.json").read_text()) == scored
    records = records_lib.load_records(config.data_dir, "train", config.dataset)
    assert scored["rerank"]["nnn"]["bank"] == len(records_lib.caption_pairs(records)[1])
    test = records_lib.load_records(config.data_dir, "test", config.dataset)
    assert scored["rerank"]["captions"]["num_queries"] == len(test.image_paths)
    out = capsys.readouterr().out
    plain_row = " | ".join(f"{value:.2f}" for value in plain["test"]["t2i"].values())
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len(table) == 5 and [line.split()[1] for line in table[2:]] == ["plain", "nnn", "captions"]
    assert plain_row.split(" | ") == [cell.strip() for cell in table[2].split("|")[2:7]]


def test_unknown_option_on_the_command_line(start, tmp_path):
    process = start(tmp_path / "typo", "--mode=eval", "--rerank=nnm")
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 2 and stderr.count("\n") == 1
    assert "--rerank 'nnm' is unknown: did you mean 'nnn'? choose from: all, k_reciprocal" in stderr
    assert not (tmp_path / "typo").exists()


def test_encodes_the_captions_of_a_split(make_config):
    """In their own order, as the split's queries are."""
    run = prepare(make_config(), to_train=False)
    evaluator, variables = Evaluator(run), run.variables(run.trainable)
    _, split = evaluator.score_split(variables, "val")
    np.testing.assert_allclose(evaluator.encode_captions(variables, "val"), split.query_feats, atol=1e-6)
    assert len(evaluator.encode_captions(variables, "train")) > len(split.query_feats)
