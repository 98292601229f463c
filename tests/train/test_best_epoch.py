"""Which epoch is kept where several are equally good: the first."""

import json

import pytest

from tpr_jax.train import checkpoint, loop, results

MEASURES = ("R1", "R5", "R10", "mAP", "mINP")


def scores(r1: float) -> dict:
    """Only R@1 from text to image decides: what else is scored gets better all the time."""
    scores.called = getattr(scores, "called", 0) + 1
    others = dict.fromkeys(MEASURES[1:], 50.0 + scores.called)
    return {"t2i": {"R1": r1, **others}, "i2t": {"R1": 50.0 + scores.called, **others}}


@pytest.mark.parametrize(
    ("on_val", "best"), [([40.0, 40.0, 30.0], 1), ([30.0, 40.0, 40.0], 2), ([0.0, 0.0, 0.0], 1)]
)
def test_of_equal_epochs_on_val_the_first_is_kept(make_config, tmp_path, monkeypatch, on_val, best):
    """In `results.json`, in `checkpoints/best`, and in the model that is written."""
    left = iter(on_val)
    monkeypatch.setattr(results, "score_epoch", lambda *_: {"val": scores(next(left))})
    config = make_config(num_epochs=3, eval_every=1, checkpoint_every=1000, log_every=6)
    found = loop.train(config, tmp_path)
    assert found["best_on_val"]["epoch"] == best
    kept = checkpoint.open_manager(tmp_path / "checkpoints" / "best", keep=1)
    assert list(kept.all_steps()) == [6 * best]
    assert json.loads((tmp_path / "results.json").read_text())["best_on_val"]["epoch"] == best
    report = (tmp_path / "report.html").read_text()
    assert f"Best on val (epoch {best})" in report


@pytest.mark.parametrize(("on_test", "best"), [([40.0, 40.0, 30.0], 1), ([30.0, 40.0, 40.0], 2)])
def test_of_equal_epochs_on_test_the_first_is_reported(on_test, best):
    rows = [{"step": 6 * epoch, "epoch": epoch, "test": scores(r1)} for epoch, r1 in enumerate(on_test, 1)]
    found = results.best_on_test([{"step": 1, "loss": 2.0}, *rows])
    assert found["epoch"] == best and found["test"] == rows[best - 1]["test"]
