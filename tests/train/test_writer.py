"""config.json, metrics.jsonl and the events for TensorBoard."""

import gc
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpr_jax.errors import UserError
from tpr_jax.train import checkpoint, writer
from tpr_jax.utils.files import write_json

CONFIG = {"seed": 0, "optimizer": {"lr": 0.1}, "total_steps": 5, "mesh": {"data": 1}}


def test_check_workdir_makes_the_folder_but_does_not_claim_it(tmp_path):
    writer.check_workdir(tmp_path / "new" / "run", CONFIG, ())
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_same_config_and_free_keys_pass(tmp_path):
    write_json(tmp_path / "config.json", CONFIG)
    writer.check_workdir(tmp_path, CONFIG, ())
    writer.check_workdir(tmp_path, CONFIG | {"total_steps": 9, "mesh": {"data": 2}}, ("total_steps", "mesh"))


def test_missing_key_counts_as_its_default(tmp_path):
    write_json(tmp_path / "config.json", CONFIG)
    newer = CONFIG | {"optimizer": {"lr": 0.1, "milestones": [20, 50]}}
    defaults = {"seed": 3, "optimizer": {"lr": 0.3, "milestones": [20, 50]}}
    writer.check_workdir(tmp_path, newer, (), defaults)
    for changed, told in [
        (CONFIG | {"optimizer": {"lr": 0.1, "milestones": [2]}}, r"milestones was \[20, 50\], is now \[2\]"),
        (newer | {"seed": 3}, "config.seed was 0, is now 3"),
        (newer | {"method": {"rank": 4}}, "config.method.rank was None, is now 4"),
    ]:
        with pytest.raises(UserError, match=told):
            writer.check_workdir(tmp_path, changed, (), defaults)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (CONFIG | {"optimizer": {"lr": 0.2}}, "config.optimizer.lr was 0.1, is now 0.2"),
        (CONFIG | {"extra": 1}, "config.extra was None, is now 1"),
        ({"optimizer": {"lr": 0.1}, "total_steps": 5, "mesh": {"data": 1}}, "config.seed was 0, is now None"),
    ],
)
def test_names_the_key_that_differs(tmp_path, changed, told):
    write_json(tmp_path / "config.json", CONFIG)
    with pytest.raises(UserError, match=told):
        writer.check_workdir(tmp_path, changed, ("total_steps",))


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3", "null"])
def test_rejects_a_config_json_that_is_not_an_object(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config.json is not a JSON object .*: choose another --workdir"):
        writer.check_workdir(tmp_path, CONFIG, ())
    assert (tmp_path / "config.json").read_text() == content


@pytest.mark.parametrize(
    "name",
    [
        *("metrics.jsonl", "results.json", "report.html", "report.png", "checkpoints", "tensorboard"),
        *("checkpoints/progress.json", "checkpoints/latest/model.pt", "tensorboard/old/events"),
        "model/config.json",
    ],
)
def test_rejects_files_that_are_not_of_a_run(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=r"is not of a run.*: choose another --workdir") as raised:
        writer.check_workdir(tmp_path, CONFIG, ())
    named = name if name.startswith("model") else name.split("/")[0]
    assert str(raised.value).startswith(f"{tmp_path / named}: ") and "\n" not in str(raised.value)
    assert path.read_text() == "mine"
    write_json(tmp_path / "config.json", CONFIG)
    writer.check_workdir(tmp_path, CONFIG, ())


def test_files_that_a_run_does_not_touch_are_left(tmp_path):
    for name in ("log.txt", "lock", ".lock", "compare.json", "eval.json", "profile/trace", "model/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    writer.check_workdir(tmp_path, CONFIG, ())
    with pytest.raises(UserError, match=f"^{tmp_path / 'log.txt'}: is not of a run"):
        writer.check_workdir(tmp_path, CONFIG, (), writes=["log.txt"])


def test_a_run_that_was_killed_before_config_json_resumes(tmp_path):
    checkpoint.Checkpointer(tmp_path / "checkpoints")
    writer.check_workdir(tmp_path, CONFIG, ())


def test_a_run_without_config_json_resumes_from_its_checkpoints(tmp_path):
    (tmp_path / "checkpoints" / "latest" / "20").mkdir(parents=True)
    for name in ("metrics.jsonl", "checkpoints/progress.json", "checkpoints/latest/20/state"):
        (tmp_path / name).write_text("x")
    writer.check_workdir(tmp_path, CONFIG, ())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that even root cannot write")
def test_workdir_that_cannot_be_written():
    with pytest.raises(UserError, match=r"--workdir /proc/self cannot be written \(.*\): check that this"):
        writer.check_workdir(Path("/proc/self"), CONFIG, ())


def test_workdir_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="cannot be created"):
        writer.check_workdir(tmp_path / "run", CONFIG, ())


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_history_is_cut_at_the_resumed_step(tmp_path):
    assert writer.read_history(tmp_path, 3) == []
    lines = [{"step": step, "loss": step / 3} for step in (1, 2, 3, 4)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 5, "lo')
    assert writer.read_history(tmp_path, 3) == lines[:3]
    assert rows(tmp_path) == lines[:3]


GOOD = [{"step": 1, "loss": 0.1}, {"step": 3, "loss": float("inf"), "routing/text/load": [0.25, 0.75]}]
NO_ROWS = {
    "cut off": b'{"step": 2, "lo',
    "binary garbage": bytes(range(128, 160)),
    "not UTF-8": b'{"step": 2, "loss": 1.0, "\xe9": 2}',
    "UTF-16": '{"step": 2, "loss": 1.0}'.encode("utf-16-le"),
    "NUL bytes": bytes(4096),
    "empty": b"",
    "blanks": b"  \r",
    "a list": b'[{"step": 2}]',
    "a number": b"2",
    "null": b"null",
    "a text": b'"step"',
    "no step": b'{"loss": 1.0}',
    "step of another kind": b'{"step": "2"}',
    "step is true": b'{"step": true}',
    "a loss that is none": b'{"step": 2, "loss": null}',
    "scores that are none": b'{"step": 2, "epoch": 1, "val": 5}',
    "scores that lack some": b'{"step": 2, "epoch": 1, "val": {"t2i": {"R1": 3.0}}}',
    "two rows in one": b'{"step": 2}{"step": 2}',
    "nested beyond all measure": b"[" * 200_000,
}


@pytest.mark.parametrize("bad", NO_ROWS.values(), ids=NO_ROWS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_damaged_line_costs_no_other_line(tmp_path, capsys, bad, place):
    lines = [json.dumps(row).encode() for row in GOOD]
    content = b"".join(line + b"\n" for line in [*lines[:place], bad, *lines[place:]])
    (tmp_path / "metrics.jsonl").write_bytes(content)
    assert writer.read_history(tmp_path, 9) == GOOD
    assert rows(tmp_path) == GOOD
    (said,) = capsys.readouterr().out.splitlines()
    assert f"metrics.jsonl: dropped line {place + 1}, which cannot be read" in said
    assert said.endswith("kept as metrics.damaged.jsonl")
    assert (tmp_path / "metrics.damaged.jsonl").read_bytes() == content
    # The remaining file is intact: nothing more is printed, and the copy stays.
    assert writer.read_history(tmp_path, 9) == GOOD and capsys.readouterr().out == ""
    assert (tmp_path / "metrics.damaged.jsonl").read_bytes() == content


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=80))
def test_parses_rows_around_any_bytes(bad):
    lines = [json.dumps(row).encode() for row in GOOD]
    found, numbers = writer.parse_rows(b"\n".join([lines[0], bad, lines[1]]))
    assert found[0] == GOOD[0] and found[-1] == GOOD[1]
    assert numbers == list(range(2, 3 + bad.count(b"\n")))


def test_copies_of_damaged_files_do_not_overwrite_each_other(tmp_path, capsys):
    for attempt in ("one", "two", "three"):
        (tmp_path / "metrics.jsonl").write_text(attempt)
        assert writer.read_history(tmp_path, 9) == []
    found = [(tmp_path / f"metrics.damaged{n}.jsonl").read_text() for n in ("", ".2", ".3")]
    assert found == ["one", "two", "three"]
    (tmp_path / "metrics.jsonl").write_text("x\n" * 12)
    writer.read_history(tmp_path, 9)
    assert "dropped lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ..., which" in capsys.readouterr().out


def test_names_a_log_that_cannot_be_read(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be read \(Is a directory\): move it away"):
        writer.read_history(tmp_path, 9)


def test_removes_scores_that_are_evaluated_again(tmp_path):
    scores = {way: dict.fromkeys(("R1", "R5", "R10", "mAP", "mINP"), 1.0) for way in ("t2i", "i2t")}
    for split in ("val", "test"):
        lines = [{"step": 2, split: scores}, {"step": 4, "loss": 1.0}, {"step": 4, split: scores}]
        _check_that_scores_are_dropped(tmp_path, lines)


def _check_that_scores_are_dropped(tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert writer.read_history(tmp_path, 4) == lines
    assert writer.read_history(tmp_path, 4, evaluate_again=True) == lines[:2]
    assert rows(tmp_path) == lines[:2]


def test_clean_workdir_removes_leftovers_of_killed_runs(tmp_path):
    """Goes by the names that tempfile and Orbax give: other files stay."""
    left = [
        *(".config.json.ab_d1234.tmp", ".results.json.abcd1234.tmp", ".report.html.abcd1234.tmp"),
        *(".may_write.abcd1234", ".metrics.jsonl.abcd1234.tmp", "checkpoints/.progress.json.abcd1234.tmp"),
        *("model/.config.json.abcd1234.tmp", "model/backbone/.config.json.abcd1234.tmp"),
    ]
    folders = [
        *("model/.saving.abcd1234", "model/backbone/.saving.a_cd1234"),
        "checkpoints/latest/30.orbax-checkpoint-tmp",
        "checkpoints/latest/40.orbax-checkpoint-tmp-1718000000",
        "checkpoints/best/30.orbax-checkpoint-tmp",
    ]
    mine = [
        *("config.json", ".eval.json.abcd1234.tmp", "my.tmp", "model/my.tmp", ".notes.abcd1234.tmp"),
        *(
            "checkpoints/latest/20/x",
            "checkpoints/latest/my.orbax-checkpoint-tmp/x",
            "a/.config.json.abcd1234.tmp",
        ),
    ]
    for name in [*left, *mine, *(f"{folder}/state/d/x" for folder in folders)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    writer.clean_workdir(tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == set(mine)
    assert not any((tmp_path / folder).exists() for folder in folders)
    writer.clean_workdir(tmp_path / "missing")


def test_metric_writer_keeps_full_precision_and_writes_events(tmp_path):
    history = [{"step": 1, "loss": 2.0}]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(history[0]) + "\n")
    metrics = writer.MetricWriter(tmp_path, history)
    metrics.write({"step": 2, "loss": 1 / 3, "routing/text/load": [0.25, 0.75], "val": {"t2i": {"R1": 10.0}}})
    assert rows(tmp_path) == history  # on disk at once: a killed run loses no line
    metrics.close()
    assert history[1]["loss"] == 1 / 3 and rows(tmp_path)[1]["loss"] == 1 / 3
    (path,) = (tmp_path / "tensorboard").iterdir()
    for tag in (b"loss", b"val/t2i/R1", b"routing/text/load/0", b"routing/text/load/1"):
        assert tag in path.read_bytes()


def test_fsync_metrics_syncs_the_open_file(tmp_path, monkeypatch):
    writer.fsync_metrics(tmp_path)  # nothing there yet
    metrics = writer.MetricWriter(tmp_path, [])
    metrics.write({"step": 1})
    synced = []
    monkeypatch.setattr(writer.os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    writer.fsync_metrics(tmp_path)
    assert synced == [(tmp_path / "metrics.jsonl").stat().st_ino]
    metrics.close()
    assert writer.read_history(tmp_path, 9) == [{"step": 1}]


def test_another_process_may_clean_the_folder_during_the_check(tmp_path, monkeypatch):
    make = tempfile.mkstemp

    def make_and_lose(**settings):
        made = make(**settings)
        writer.clean_workdir(tmp_path)
        assert not os.path.exists(made[1])
        return made

    monkeypatch.setattr(tempfile, "mkstemp", make_and_lose)
    writer.check_workdir(tmp_path, {}, ())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_once(tmp_path, monkeypatch):
    """Nothing more is printed when the writer is collected, as at the end of Python."""
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    late = []
    monkeypatch.setattr(sys, "unraisablehook", late.append)
    metrics = writer.MetricWriter(tmp_path, [])
    with pytest.raises(UserError, match="no space left on the disk"):
        metrics.write({"step": 1, "loss": 0.5})
    del metrics
    gc.collect()
    # What other tests left behind may be collected here, too.
    assert [one for one in late if "metrics.jsonl" in str(one.object)] == []
