"""config.json, metrics.jsonl and the events for TensorBoard."""

import json
import os
from pathlib import Path

import pytest

from tpr_jax import runlog
from tpr_jax.errors import UserError
from tpr_jax.writing import write_json

CONFIG = {"seed": 0, "optimizer": {"lr": 0.1}, "total_steps": 5, "mesh": {"data": 1}}


def test_check_workdir_makes_the_folder_but_does_not_claim_it(tmp_path):
    runlog.check_workdir(tmp_path / "new" / "run", CONFIG, ())
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_same_config_and_free_keys_pass(tmp_path):
    write_json(tmp_path / "config.json", CONFIG)
    runlog.check_workdir(tmp_path, CONFIG, ())
    runlog.check_workdir(tmp_path, CONFIG | {"total_steps": 9, "mesh": {"data": 2}}, ("total_steps", "mesh"))


def test_a_key_newer_than_the_run_had_its_default(tmp_path):
    write_json(tmp_path / "config.json", CONFIG)
    newer = CONFIG | {"optimizer": {"lr": 0.1, "milestones": [20, 50]}}
    defaults = {"seed": 3, "optimizer": {"lr": 0.3, "milestones": [20, 50]}}
    runlog.check_workdir(tmp_path, newer, (), defaults)
    for changed, told in [
        (CONFIG | {"optimizer": {"lr": 0.1, "milestones": [2]}}, r"milestones was \[20, 50\], is now \[2\]"),
        (newer | {"seed": 3}, "config.seed was 0, is now 3"),
        (newer | {"method": {"rank": 4}}, "config.method.rank was None, is now 4"),
    ]:
        with pytest.raises(UserError, match=told):
            runlog.check_workdir(tmp_path, changed, (), defaults)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (CONFIG | {"optimizer": {"lr": 0.2}}, "config.optimizer.lr was 0.1, is now 0.2"),
        (CONFIG | {"extra": 1}, "config.extra was None, is now 1"),
        ({"optimizer": {"lr": 0.1}, "total_steps": 5, "mesh": {"data": 1}}, "config.seed was 0, is now None"),
    ],
)
def test_another_config_is_named(tmp_path, changed, told):
    write_json(tmp_path / "config.json", CONFIG)
    with pytest.raises(UserError, match=told):
        runlog.check_workdir(tmp_path, changed, ("total_steps",))


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3", "null"])
def test_config_json_that_is_none(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config.json is no JSON object .*: choose another --workdir"):
        runlog.check_workdir(tmp_path, CONFIG, ())
    assert (tmp_path / "config.json").read_text() == content


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that even root cannot write")
def test_workdir_that_cannot_be_written():
    with pytest.raises(UserError, match=r"--workdir /proc/self cannot be written \(.*\): see that this"):
        runlog.check_workdir(Path("/proc/self"), CONFIG, ())


def test_workdir_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="cannot be made"):
        runlog.check_workdir(tmp_path / "run", CONFIG, ())


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_history_is_cut_at_the_step_resumed_from(tmp_path):
    assert runlog.read_history(tmp_path, 3) == []
    lines = [{"step": step, "loss": step / 3} for step in (1, 2, 3, 4)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 5, "lo')
    assert runlog.read_history(tmp_path, 3) == lines[:3]
    assert rows(tmp_path) == lines[:3]


def test_a_line_cut_short_ends_the_history(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n')
    assert runlog.read_history(tmp_path, 9) == [{"step": 1}]


def test_scores_that_are_made_again_are_dropped(tmp_path):
    for split in ("val", "test"):
        lines = [{"step": 2, split: {}}, {"step": 4, "loss": 1.0}, {"step": 4, split: {}}]
        _check_that_scores_are_dropped(tmp_path, lines)


def _check_that_scores_are_dropped(tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert runlog.read_history(tmp_path, 4) == lines
    assert runlog.read_history(tmp_path, 4, evaluate_again=True) == lines[:2]
    assert rows(tmp_path) == lines[:2]


def test_log_appends_with_full_precision_and_to_tensorboard(tmp_path):
    history = [{"step": 1, "loss": 2.0}]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(history[0]) + "\n")
    log, close = runlog.open_log(tmp_path, history)
    log({"step": 2, "loss": 1 / 3, "routing/text/load": [0.25, 0.75], "val": {"t2i": {"R1": 10.0}}})
    assert rows(tmp_path) == history  # on disk at once: a killed run loses no line
    close()
    assert history[1]["loss"] == 1 / 3 and rows(tmp_path)[1]["loss"] == 1 / 3
    (path,) = (tmp_path / "tensorboard").iterdir()
    for tag in (b"loss", b"val/t2i/R1", b"routing/text/load/0", b"routing/text/load/1"):
        assert tag in path.read_bytes()


def test_what_is_logged_is_on_the_disk_before_a_checkpoint_is(tmp_path, monkeypatch):
    runlog.secure(tmp_path)  # nothing there yet
    log, close = runlog.open_log(tmp_path, [])
    log({"step": 1})
    synced = []
    monkeypatch.setattr(runlog.os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    runlog.secure(tmp_path)
    assert synced == [(tmp_path / "metrics.jsonl").stat().st_ino]
    close()
    assert runlog.read_history(tmp_path, 9) == [{"step": 1}]
