"""The measurement of a run by a few of its steps."""

import json

import pytest

from tests.conftest import ROOT
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.perf import compilation_cache
from tpr_jax.reproduce import measure
from tpr_jax.train.setup import prepare, prepare_training

WITH_VAL, WITHOUT = {"train": 90, "val": 10, "test": 100}, {"train": 90, "test": 100}


@pytest.mark.parametrize(
    ("changes", "images", "mode", "steps", "expected"),
    [
        # Six epochs score val and test; test is also scored before, at the end, and with the best on val.
        ({"eval_test_each_time": True, "eval_every": 1}, WITH_VAL, "train", 60, 6 * 110 + 300),
        ({"eval_test_each_time": True, "eval_every": 1}, WITHOUT, "train", 60, 6 * 100 + 200),
        ({"eval_test_each_time": False, "eval_every": 1}, WITH_VAL, "train", 60, 6 * 10 + 300),
        ({"eval_test_each_time": True, "eval_every": 5}, WITH_VAL, "train", 60, 2 * 110 + 300),
        ({"eval_test_each_time": True, "eval_every": 0}, WITH_VAL, "train", 60, 110 + 300),
        ({"eval_test_each_time": True, "eval_every": 1}, WITH_VAL, "train", 15, 2 * 110 + 300),
        ({"eval_test_each_time": True, "eval_every": 1}, WITH_VAL, "eval", 0, 110),
        ({"eval_test_each_time": False, "eval_every": 1}, WITHOUT, "eval", 0, 100),
    ],
)
def test_counts_the_images_that_are_encoded(make_config, changes, images, mode, steps, expected):
    config = make_config(**changes)
    assert measure.encoded_images(config, images, mode, steps_per_epoch=10, steps=steps) == expected


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_measures_a_run(mode, tiny, make_config, monkeypatch):
    monkeypatch.setattr(measure, "MAX_STEPS", 3)
    found = measure.measure(make_config(num_epochs=2), mode)
    # 12 identities with two images each, and two captions: 48, in batches of 8.
    assert (found["mode"], found["test_images"]) == (mode, 16)
    assert found["steps"] == (2 * 6 if mode == "train" else 0)
    # eval_every=5 of the tiny config: val once at the end, and test three times; or each once.
    assert found["encoded_images"] == (12 + 3 * 16 if mode == "train" else 12 + 16)
    assert 0 < found["image_seconds"] < 60 and (0 < found["step_seconds"] < 60) == (mode == "train")
    assert found["startup_seconds"] > 0 and found["environment"]["platform"] == "cpu"
    assert found["weights"]["name"] == tiny["clip"] and len(found["weights"]["sha256"]) == 64


@pytest.mark.parametrize(("flag", "called"), [([], "enable"), (["--nocompilation_cache"], "disable")])
def test_writes_the_measurement_and_nothing_else(tiny, tmp_path, monkeypatch, flag, called):
    calls = []
    monkeypatch.setattr(measure, "measure", lambda config, mode: {"mode": mode, "pad": config.pad})
    for name in ("enable", "disable"):
        monkeypatch.setattr(compilation_cache, name, lambda name=name: calls.append(name))
    words = ["--config", tiny["config"], "--workdir", str(tmp_path), "--mode", "eval", "--config.pad=3"]
    measure.run(["measure", *words, *flag])
    assert json.loads((tmp_path / "measured.json").read_text()) == {"mode": "eval", "pad": 3}
    assert list(tmp_path.iterdir()) == [tmp_path / "measured.json"] and calls == [called]


def test_times_at_least_two_and_at_most_so_many_steps(make_config, monkeypatch):
    run = prepare(make_config())
    training = prepare_training(run)
    for seconds, most, expected in ((0.0, 50, 2), (1e9, 5, 5)):
        calls = []

        def update(state, frozen, batch, calls=calls):
            calls.append(batch)
            return state, {}

        monkeypatch.setattr(measure, "SECONDS", seconds)
        monkeypatch.setattr(measure, "MAX_STEPS", most)
        counted = type("Training", (), {**vars(training), "update": staticmethod(update)})
        measure._measure_steps(run, counted)
        assert len(calls) == 1 + expected  # the first one compiles, and is not timed
        assert set(calls[0]) == {"image", "ids", "pid"}


def test_a_bad_command_line_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        explain_and_exit(measure.run, ["measure", "--config", str(ROOT / "configs" / "cskt.py")])
    assert ended.value.code == 2 and "--workdir is missing" in capsys.readouterr().err
