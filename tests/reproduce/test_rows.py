"""The rows: spreads, verdicts and reasons, by values worked by hand."""

import json

import pytest

from tests.reproduce.made import row
from tpr_jax.compare.runs import ComparisonRun
from tpr_jax.reproduce import rows
from tpr_jax.reproduce.plan import Recipe

SCORES = {"R1": 70.0, "R5": 80.0, "R10": 90.0, "mAP": 60.0, "mINP": 50.0}


@pytest.mark.parametrize(
    ("difference", "reason", "verdict"),
    [
        (None, "", "not yet run"),
        (None, "a short run", "not yet run"),
        (0.0, "", "within 1 point"),
        (1.0, "", "within 1 point"),
        (-1.0, "", "within 1 point"),
        (73.17 - 72.17, "", "within 1 point"),  # in binary a little more or less than 1
        (1.004, "", "within 1 point"),  # printed as +1.00
        (1.006, "", "beyond 1 point"),
        (-1.01, "", "beyond 1 point"),
        (0.0, "a short run", "not comparable"),
        (-30.0, "a short run", "not comparable"),
    ],
)
def test_verdicts(difference, reason, verdict):
    assert rows.decide(difference, reason) == verdict


@pytest.mark.parametrize(
    ("quick", "changed", "subset", "backbones", "reason"),
    [
        (False, (), "", [149_617_664, None], ""),
        (True, ("num_epochs",), "", [], "a short run (--quick)"),
        (False, ("num_epochs",), "", [], "other settings than the recipe's (num_epochs)"),
        (
            *(True, ("num_epochs", "pad"), "", []),
            "a short run (--quick); other settings than the recipe's (num_epochs, pad)",
        ),
        (False, (), "test has 3 images", [], "a subset of the benchmark"),
        (False, (), "", [149_617_664, 7], "another backbone than CLIP ViT-B/16"),
    ],
)
def test_reasons(quick, changed, subset, backbones, reason):
    assert rows.why_not_comparable(quick, changed, subset, backbones) == reason


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, ""),
        ({"data": {"subset": []}, "skipped": {"count": 3, "test": 0}}, ""),
        ({"data": {"subset": ["test has 3 images"]}}, "a subset of the benchmark"),
        ({"skipped": {"count": 3, "test": 1}}, "a subset of the benchmark"),
    ],
)
def test_the_run_itself_says_whether_its_data_was_whole(tmp_path, facts, reason):
    test = {"test": {"t2i": SCORES, "i2t": SCORES}}
    result = {"trainable_params": 0, "total_params": 149_617_664, **test, **facts}
    (tmp_path / "eval.json").write_text(json.dumps(result))
    config = {"dataset": "cuhk_pedes", "batch_size": 8}
    (tmp_path / "compare.json").write_text(json.dumps({"exit_code": 0, "config": config}))
    planned = ComparisonRun("zero_shot-cuhk_pedes", 0, tmp_path, "eval", (), config)
    made = rows.make_row(Recipe("zero_shot", "cuhk_pedes", (planned,), (), "a"), "", False, None)
    assert made.done == 1 and made.reason == reason


def test_parameters_of_the_backbone():
    result = {"total_params": 1100, "trainable_params": 100}
    assert rows.backbone_params("dm_adapter", result) == 1000
    assert rows.backbone_params("full_finetune", result | {"trainable_params": 1100}) == 1100
    assert rows.backbone_params("irra", result) is None and rows.backbone_params("cskt", {}) is None
    assert rows.backbone_params("tpr_peft", result) is None  # it trains LayerNorms of the backbone


@pytest.mark.parametrize("method", ["irra", "tpr_peft", "dm_adapter"])
def test_the_run_itself_tells_the_parameters_of_its_backbone(method):
    result = {"total_params": 1100, "trainable_params": 100, "backbone": {"params": 900}}
    assert rows.backbone_params(method, result) == 900


def test_scores_by_protocol():
    other = SCORES | {"R1": 71.0}
    trained = {"final": {"test": {"t2i": SCORES}}, "best_on_val": None}
    trained["best_on_test"] = {"epoch": 3, "test": {"t2i": other, "i2t": SCORES}}
    assert rows.scores_of(trained, "final") == SCORES and rows.scores_of(trained, "best_on_test") == other
    assert rows.scores_of(trained, "best_on_val") is None and rows.scores_of(trained, "untrained") is None
    scored = {"step": 0, "test": {"t2i": SCORES}}
    assert rows.scores_of(scored, "untrained") == SCORES and rows.scores_of(scored, "final") is None


def test_summary_needs_the_scores_of_every_seed():
    found = rows.summarize([SCORES, SCORES | {"R1": 72.0}])
    assert found["R1"].values == (70.0, 72.0) and found["mAP"].mean == 60.0
    assert rows.summarize([]) is None and rows.summarize([SCORES, None]) is None


def test_the_score_of_a_row_is_that_of_the_papers_protocol():
    assert row().score.mean == 72.0 and row(protocol="final").score.mean == 70.0
    assert row(ours={}).score is None


def test_reads_the_hash_of_the_weights(tmp_path):
    assert rows.trained_on(tmp_path) is None
    (tmp_path / "model").mkdir()
    for content, found in (('{"backbone": {"sha256": "ab"}}', "ab"), ("{}", None), ("[", None), ("[]", None)):
        (tmp_path / "model" / "config.json").write_text(content)
        assert rows.trained_on(tmp_path) == found


def test_distinct_values_keep_their_order():
    assert rows.distinct([{"b": 1}, {"a": 1}, {"b": 1}]) == [{"b": 1}, {"a": 1}]
    assert json.dumps(rows.distinct(iter("abca"))) == '["a", "b", "c"]'
