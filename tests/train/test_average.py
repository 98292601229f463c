"""With `optimizer.ema_decay`, the average is scored and saved, and the last weights are trained on."""

import numpy as np
import pytest

from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax import from_pretrained
from tpr_jax.train import checkpoint, eval_run, loop
from tpr_jax.train.evaluate import Evaluator
from tpr_jax.train.state import TrainState
from tpr_jax.utils.trees import flatten

METRICS = {"R1": 50.0, "R5": 50.0, "R10": 50.0, "mAP": 50.0, "mINP": 50.0}


@pytest.fixture
def scored(monkeypatch):
    """The mixture's weights of each scoring, with the split."""
    seen = []

    def score_split(evaluator, variables, split, encoders=None):
        seen.append((split, variables.get("moe")))
        return {"t2i": METRICS, "i2t": METRICS}, None

    monkeypatch.setattr(Evaluator, "score_split", score_split)
    monkeypatch.setattr(loop.evaluate, "examples", lambda *_, **__: [])
    monkeypatch.setattr(loop.report, "write_report", lambda *_, **__: None)
    return seen


def equal(found, expected) -> bool:
    found, expected = flatten(found), flatten(expected)
    return all(np.array_equal(found[path], expected[path]) for path in expected)


def test_the_average_is_scored_and_saved(make_config, tmp_path, scored):
    config = make_config(num_epochs=1, eval_every=1, optimizer__ema_decay=0.9)
    loop.train(config, tmp_path)
    run = loop.prepare(config)
    manager = checkpoint.open_manager(tmp_path / "checkpoints" / "latest", keep=2)
    state = TrainState.from_dict(
        checkpoint.restore_newest(manager, eval_run.initial_state(run).as_dict()).state
    )
    assert int(state.opt_state[-1].count) == int(state.step) == 6
    average = state.averaged["moe"]
    assert not equal(state.trainable["moe"], average)
    # Zero-shot; val of the epoch; test of the last and of the best state.
    assert [split for split, _ in scored] == ["test", "val", "test", "test"] and scored[0][1] is None
    assert all(equal(weights, average) for _, weights in scored[1:])
    assert equal(from_pretrained(tmp_path).variables["moe"], average)
    scored.clear()
    eval_run.evaluate_run(config, tmp_path)
    assert [split for split, _ in scored] == ["val", "test"]
    assert all(equal(weights, average) for _, weights in scored)


def test_without_it_the_last_weights_are(make_config, tmp_path, scored):
    config = make_config(num_epochs=1, eval_every=1)
    loop.train(config, tmp_path)
    state = TrainState.from_dict(
        checkpoint.restore_newest(
            checkpoint.open_manager(tmp_path / "checkpoints" / "latest", keep=2),
            eval_run.initial_state(loop.prepare(config)).as_dict(),
        ).state
    )
    assert state.averaged is state.trainable
    assert all(equal(weights, state.trainable["moe"]) for _, weights in scored[1:])
