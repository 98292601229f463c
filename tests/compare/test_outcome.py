"""Outcomes read from the files of runs: complete ones, those of other configs, and their numbers."""

import json

import pytest

from tests.compare_stand_in import compared_fixture, stand_in_fixture, starts, table, zero_fixture  # noqa: F401
from tpr_jax.compare import outcome
from tpr_jax.compare.runs import ComparisonRun
from tpr_jax.metrics.retrieval import METRIC_KEYS


def test_step_time_leaves_out_the_first_logged_step():
    rows = [{"examples_per_second": speed} for speed in (0.1, 8.0, 4.0, 16.0)] + [{"val": {}}]
    assert outcome.seconds_per_step(rows, 8) == 1.0  # the median of 1, 2 and 0.5
    assert outcome.seconds_per_step(rows[:1], 8) is None


def test_saved_bytes_are_the_size_of_the_file_if_there_is_one(tmp_path):
    assert outcome.saved_bytes({"trainable_params": 25}, tmp_path) == 100
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adapter.safetensors").write_bytes(b"x" * 123)
    assert outcome.saved_bytes({"trainable_params": 25}, tmp_path) == 123


SCORES_AS_TEXT = json.dumps(
    {"final": {"test": {way: dict.fromkeys(METRIC_KEYS, "x") for way in ("t2i", "i2t")}}}
)


@pytest.mark.parametrize(
    "damage", ["", "{", "[1]", '{"final": {}}', '{"final": {"test": {"t2i": {}}}}', SCORES_AS_TEXT]
)
def test_repeats_a_run_with_damaged_results(compared, stand_in, tmp_path, damage):
    assert compared()[0] == 0
    (tmp_path / "all" / "tiny" / "seed_0" / "results.json").write_text(damage)
    code, stdout, _ = compared()
    assert code == 0 and stdout.count("already done") == 3
    assert table(tmp_path)["tiny"]["done"] == "2"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("final", "test", "t2i", "R1"), "x"),
        (("final", "test", "i2t", "mAP"), None),
        (("final", "test", "t2i", "R5"), float("nan")),
        (("final", "test", "t2i"), [1]),
        (("final", "test"), 5),
        (("final",), 5),
        (("trainable_params",), "x"),
        (("total_params",), None),
        (("steps",), [120]),
        (("peak_memory_bytes",), "7000"),
    ],
)
def test_results_with_a_value_of_another_type_are_not_complete(tmp_path, where, value):
    scores = dict.fromkeys(METRIC_KEYS, 10.0)
    results = {"trainable_params": 1, "total_params": 2, "steps": 120, "peak_memory_bytes": 7000}
    results["final"] = {"test": {"t2i": dict(scores), "i2t": dict(scores)}}
    (tmp_path / outcome.RECORD).write_text(json.dumps({"exit_code": 0, "config": {}}))
    run = ComparisonRun("a", 0, tmp_path, "train", (), {})
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert outcome.is_complete(run)
    part = results
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert not outcome.is_complete(run) and outcome.read_outcome(run).status == "missing"


def test_a_record_with_a_config_of_another_type_is_not_complete(tmp_path):
    (tmp_path / outcome.RECORD).write_text('{"exit_code": 0, "config": 5}')
    assert not outcome.is_complete(ComparisonRun("a", 0, tmp_path, "train", (), {}))


def test_the_tables_say_what_the_scores_of_a_run_depend_on(compared, stand_in, tmp_path):
    assert compared()[0] == 0
    drawn = {"identities": 5, "of_identities": 500, "images": 20, "captions": 40}
    path = tmp_path / "all" / "tiny" / "seed_1" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"few_shot": drawn}}))
    _, stdout, _ = compared()
    sentence = "tiny: 1 of 2 seeds: Few-shot: trained on 5 of 500 identities, 20 images and 40 captions."
    assert sentence in stdout and sentence in (tmp_path / "all" / "compare.md").read_text()


def test_resumes_for_more_steps_and_rejects_fewer(compared, stand_in, tmp_path):
    assert compared("--config.total_steps=10")[0] == 0
    assert compared("--config.total_steps=20")[0] == 0
    row = table(tmp_path)["tiny"]
    assert (row["steps_min"], row["done"]) == ("20", "2")
    assert [starts(tmp_path, f"{name}/seed_0") for name in ("tiny", "zero")] == [2, 1]
    code, _, stderr = compared("--config.total_steps=10")
    assert code == 2 and "seed_0 was trained for 20 steps, more than config.total_steps=10" in stderr
    # Keys that do not affect the results may differ.
    code, stdout, _ = compared("--config.total_steps=20", "--config.checkpoint_every=3")
    assert code == 0 and stdout.count("already done") == 4


@pytest.mark.parametrize(
    ("key", "value", "complete"),
    [
        ("data_dir", "elsewhere", False),
        ("source", "tfds_sized", False),
        ("on_bad_image", "skip", False),
        ("on_leak", "warn", True),
        ("log_every", 3, True),
    ],
)
def test_a_run_that_may_have_read_other_data_is_not_complete(tmp_path, key, value, complete):
    config = {"data_dir": "", "source": "files", "on_bad_image": "error", "on_leak": "error", "log_every": 20}
    (tmp_path / outcome.RECORD).write_text(json.dumps({"exit_code": 0, "config": config}))
    scores = dict.fromkeys(METRIC_KEYS, 10.0)
    sizes = {"trainable_params": 1, "total_params": 2}
    results = {**sizes, "final": {"test": {"t2i": scores, "i2t": scores}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert outcome.is_complete(ComparisonRun("a", 0, tmp_path, "train", (), config))
    # Started again, it compares its data with that on which it began.
    assert (
        outcome.is_complete(ComparisonRun("a", 0, tmp_path, "train", (), config | {key: value})) is complete
    )


def test_rejects_a_folder_with_another_config(compared, stand_in, tmp_path):
    (tmp_path / "all" / "tiny" / "seed_1").mkdir(parents=True)
    (tmp_path / "all" / "tiny" / "seed_1" / "config.json").write_text('{"seed": 5}')
    code, stdout, stderr = compared()
    assert (code, stdout) == (2, "") and "seed_1 holds a run of another config: config.seed was 5" in stderr
