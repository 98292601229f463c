"""The first of several equally good epochs is kept."""

import json

import pytest

from tpr_jax.train import checkpoint, loop, results
from tpr_jax.train.evaluate import Evaluator

MEASURES = ("R1", "R5", "R10", "mAP", "mINP")


def scores(r1: float) -> dict:
    """Returns scores in which all but text-to-image R@1, which alone decides, improve at every call."""
    scores.called = getattr(scores, "called", 0) + 1
    others = dict.fromkeys(MEASURES[1:], 50.0 + scores.called)
    return {"t2i": {"R1": r1, **others}, "i2t": {"R1": 50.0 + scores.called, **others}}


@pytest.mark.parametrize(
    ("on_val", "best"), [([40.0, 40.0, 30.0], 1), ([30.0, 40.0, 40.0], 2), ([0.0, 0.0, 0.0], 1)]
)
def test_keeps_the_first_of_equal_epochs_on_val(make_config, tmp_path, monkeypatch, on_val, best):
    """Checks results.json, `checkpoints/best` and the report."""
    left = iter(on_val)
    monkeypatch.setattr(Evaluator, "score_epoch", lambda *_: {"val": scores(next(left))})
    config = make_config(num_epochs=3, eval_every=1, checkpoint_every=1000, log_every=6)
    found = loop.train(config, tmp_path)
    assert found["best_on_val"]["epoch"] == best
    kept = checkpoint.open_manager(tmp_path / "checkpoints" / "best", keep=1)
    assert list(kept.all_steps()) == [6 * best]
    assert json.loads((tmp_path / "results.json").read_text())["best_on_val"]["epoch"] == best
    report = (tmp_path / "report.html").read_text()
    assert f"Best on val (epoch {best})" in report


@pytest.mark.parametrize(("on_test", "best"), [([40.0, 40.0, 30.0], 1), ([30.0, 40.0, 40.0], 2)])
def test_reports_the_first_of_equal_epochs_on_test(on_test, best):
    rows = [{"step": 6 * epoch, "epoch": epoch, "test": scores(r1)} for epoch, r1 in enumerate(on_test, 1)]
    found = results.best_on_test([{"step": 1, "loss": 2.0}, *rows])
    assert found["epoch"] == best and found["test"] == rows[best - 1]["test"]
