"""A resumed run keeps its progress, above all the best epoch."""

import itertools
import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.train.test_resume import rows
from tpr_jax.train import checkpoint, loop, progress, throughput
from tpr_jax.train import results as results_lib
from tpr_jax.train.evaluate import Evaluator

# R@1 on val by the step that is scored, six to an epoch: all that come after step 12 are worse.
R1 = {6: 20.0, 12: 50.0, 14: 70.0, 18: 30.0, 24: 10.0}
LAST = 24


class KilledError(BaseException):
    """Stands in for a SIGKILL at a chosen moment."""


def scores(r1: float) -> dict:
    return {way: dict.fromkeys(("R1", "R5", "R10", "mAP", "mINP"), r1) for way in ("t2i", "i2t")}


def first_leaf(trainable: dict) -> bytes:
    return np.asarray(jax.tree.leaves(trainable["moe"])[0]).tobytes()


def score_by_step(patch) -> list[tuple[int, str]]:
    """Scores each state by its step, as `R1` says; returns the growing list of what was scored."""
    asked, steps = [], {}
    save, restore = checkpoint.save, checkpoint.restore_newest

    def saved(manager, step, state, notes):
        steps[first_leaf(state["trainable"])] = step
        save(manager, step, state, notes)

    def restored(manager, like):
        if found := restore(manager, like):
            steps[first_leaf(found[1]["trainable"])] = found[0]
        return found

    def score_split(evaluator, variables, split, encoders=None):
        step = steps[first_leaf(variables)] if "moe" in variables else 0
        asked.append((step, split))
        return scores(R1.get(step, 1.0) + (split == "test")), {}

    patch.setattr(checkpoint, "save", saved)
    patch.setattr(checkpoint, "restore_newest", restored)
    patch.setattr(Evaluator, "score_split", score_split)
    patch.setattr(loop.evaluate, "examples", lambda *_, **__: [])
    return asked


@pytest.fixture
def scored(monkeypatch):
    return score_by_step(monkeypatch)


def best_kept(workdir: Path) -> tuple[int, dict]:
    """Returns (step, notes about the best) of the one state in `checkpoints/best`."""
    with checkpoint.open_manager(workdir / "checkpoints" / "best", keep=1) as best:
        (step,) = best.all_steps()
        notes = checkpoint.read_notes(best, step)
    return step, {key: notes[key] for key in progress.NO_BEST}


def outcome(workdir: Path) -> dict:
    """Returns what must not depend on where a run was cut: results, losses, scores, best state, model."""
    results = json.loads((workdir / "results.json").read_text())
    for key in ("seconds", "peak_memory_bytes"):
        assert results.pop(key) > 0
    model = (workdir / "model" / "adapter.safetensors").read_bytes()
    return {"results": results, "rows": rows(workdir), "best": best_kept(workdir), "model": model}


@pytest.fixture(scope="module")
def uninterrupted(make_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        score_by_step(patch)
        loop.train(make_config(total_steps=LAST, eval_every=1), workdir)
    found = outcome(workdir)
    assert found["best"] == (12, {"best_r1": 50.0, "best_epoch": 2})
    assert found["results"]["best_on_val"] == {"epoch": 2, "test": scores(51.0)}
    return found


def test_longer_rerun_keeps_the_best_epoch(make_config, scored, uninterrupted, tmp_path):
    loop.train(make_config(total_steps=12, eval_every=1), tmp_path)
    assert best_kept(tmp_path)[0] == 12
    scored.clear()
    loop.train(make_config(total_steps=LAST, eval_every=1), tmp_path)
    assert outcome(tmp_path) == uninterrupted
    # Known scores are not recomputed, except the best state's test score at the end.
    assert scored == [(18, "val"), (24, "val"), (24, "test"), (12, "test")]


@pytest.mark.parametrize("eval_every", [0, 1, 3])
def test_longer_rerun_keeps_a_best_state_at_the_old_end(make_config, scored, tmp_path, eval_every):
    """The state may be in the middle of an epoch, or at one without an evaluation."""
    loop.train(make_config(total_steps=14, eval_every=eval_every), tmp_path)
    loop.train(make_config(total_steps=LAST, eval_every=eval_every), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["best_on_val"] == {"epoch": 2, "test": scores(71.0)}
    assert best_kept(tmp_path) == (14, {"best_r1": 70.0, "best_epoch": 2})
    assert scored.count((14, "val")) == 1


def kill_at(patch, where, name: str, chosen) -> None:
    """Makes a function raise `KilledError` if `chosen(*arguments)`."""
    real = getattr(where, name)

    def killed(*arguments, **named):
        if chosen(*arguments):
            raise KilledError
        return real(*arguments, **named)

    patch.setattr(where, name, killed)


def saves(folder: str, at_step: int):
    """Returns whether a call of `checkpoint.save` has this folder and step."""
    return lambda manager, step, *_: (manager.directory.name, step) == (folder, at_step)


MOMENTS = {
    "before the evaluation": (Evaluator, "score_split", None),
    "before the best is saved": (checkpoint, "save", saves("best", 12)),
    "before the progress is": (progress, "write_progress", lambda workdir, step, notes: step == 12),
    "before the next checkpoint": (checkpoint, "save", saves("latest", 18)),
    "before the results": (loop, "write_json", lambda path, value: path.name == "results.json"),
    "before the report": (loop.report, "write_report", lambda workdir: True),
    "before the model": (results_lib, "write_model", lambda *_: True),
}


@pytest.mark.parametrize(
    ("moment", "total"),
    [*((moment, LAST) for moment in MOMENTS), ("before the progress is", 12), ("before the results", 12)],
)
def test_killed_at_any_moment(make_config, scored, uninterrupted, tmp_path, moment, total):
    """The killed run is as long as the resumed one, or shorter and ends at its best epoch."""
    where, name, chosen = MOMENTS[moment]
    if chosen is None:  # after the last evaluation that it survives
        chosen = lambda *_: scored[-1:] == [(6, "val")]  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, where, name, chosen)
        with pytest.raises(KilledError):
            loop.train(make_config(total_steps=total, eval_every=1), tmp_path)
    loop.train(make_config(total_steps=LAST, eval_every=1), tmp_path)
    assert outcome(tmp_path) == uninterrupted


def test_killed_while_saving_the_best(make_config, scored, uninterrupted, tmp_path):
    """The scores are logged, the state is half written, and the one before is not deleted yet."""
    loop.train(make_config(total_steps=6, eval_every=1), tmp_path)
    before = shutil.copytree(tmp_path / "checkpoints" / "best" / "6", tmp_path / "six")
    loop.train(make_config(total_steps=12, eval_every=1), tmp_path)
    best = tmp_path / "checkpoints" / "best"
    (best / "12").rename(best / "12.orbax-checkpoint-tmp")
    before.rename(best / "6")
    (tmp_path / "checkpoints" / "progress.json").unlink()
    loop.train(make_config(total_steps=LAST, eval_every=1), tmp_path)
    assert outcome(tmp_path) == uninterrupted


def test_damaged_newest_checkpoint_with_a_newer_best(make_config, scored, uninterrupted, tmp_path, capsys):
    """The run falls back to before its best epoch, and reaches it again."""
    loop.train(make_config(total_steps=12, eval_every=1), tmp_path)
    for path in (tmp_path / "checkpoints" / "latest" / "12").rglob("d/*"):
        path.write_bytes(b"")
    capsys.readouterr()
    loop.train(make_config(total_steps=LAST, eval_every=1), tmp_path)
    said = capsys.readouterr().out
    assert "checkpoint 12 cannot be read: fell back to step 10" in said
    assert f"checkpoint 12 in {tmp_path / 'checkpoints' / 'best'} is from after step 10: removed" in said
    assert outcome(tmp_path) == uninterrupted


def test_removes_a_damaged_best(make_config, scored, tmp_path, capsys):
    loop.train(make_config(total_steps=12, eval_every=1), tmp_path)
    (tmp_path / "checkpoints" / "best" / "12" / "notes" / "metadata").write_text("{")
    loop.train(make_config(total_steps=LAST, eval_every=1), tmp_path)
    assert "checkpoint 12 in " in capsys.readouterr().out
    # Its state is that of the checkpoint which the run resumed from: not even this is lost.
    assert best_kept(tmp_path) == (12, {"best_r1": 50.0, "best_epoch": 2})


def test_a_best_state_that_is_damaged_at_the_end_is_left_out_of_the_results(
    make_config, scored, monkeypatch, tmp_path, capsys
):
    """The run ends with its last state, and says so."""
    final_results = results_lib.final_results

    def damaged(*arguments, **named):
        for path in (tmp_path / "checkpoints" / "best").rglob("d/*"):
            path.write_bytes(b"")
        return final_results(*arguments, **named)

    monkeypatch.setattr(results_lib, "final_results", damaged)
    loop.train(make_config(total_steps=18, eval_every=1), tmp_path)
    assert "; the results omit it" in capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["best_on_val"] is None and found["final"]["test"] == scores(31.0)


def test_seconds_include_evaluations_after_the_last_checkpoint(make_config, monkeypatch, tmp_path):
    """Uses a clock of its own; the last evaluations come after the last checkpoint."""
    ticks = itertools.count(1)
    clock = SimpleNamespace(offset=0.0, monotonic=lambda: clock.offset + next(ticks) * 1e-3)
    monkeypatch.setattr(throughput, "time", clock)
    score_by_step(monkeypatch)
    score = Evaluator.score_split

    def slow(*arguments):
        clock.offset += 1000.0
        return score(*arguments)

    monkeypatch.setattr(Evaluator, "score_split", slow)
    loop.train(make_config(total_steps=6, eval_every=1), tmp_path)
    before = json.loads((tmp_path / "results.json").read_text())
    assert int(before["seconds"]) == 4000  # zero-shot, val, test twice
    loop.train(make_config(total_steps=12, eval_every=1), tmp_path)
    after = json.loads((tmp_path / "results.json").read_text())
    assert int(after["seconds"]) == 7000
    assert after["peak_memory_bytes"] >= before["peak_memory_bytes"]


def test_wall_clock_changes_do_not_matter(make_config, monkeypatch, tmp_path):
    """Sets the wall clock back an hour at each call."""
    real, hours = time.time, itertools.count(1)
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * next(hours))
    began = time.monotonic()
    results = loop.train(make_config(total_steps=6, eval_every=1), tmp_path)
    took = time.monotonic() - began
    assert 0 < results["seconds"] <= took
    for row in rows_with_times(tmp_path):
        assert 0 < row["step_seconds"] <= took and 0 < row["seconds"] <= took
        assert 0 <= row["input_wait"] <= 1 and row["examples_per_second"] > 0


def rows_with_times(workdir: Path) -> list[dict]:
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if "loss" in row]


def test_progress_belongs_to_one_step(tmp_path):
    assert progress.read_progress(tmp_path, 3) == {}
    notes = {"seconds": 2.5, "best_r1": 1.0, "skipped": {"a.jpg": "bad"}}
    progress.write_progress(tmp_path, 3, notes)
    assert progress.read_progress(tmp_path, 3) == notes
    assert progress.read_progress(tmp_path, 4) == {}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b'{"step": 3, "seconds": 9', b"[" * 200_000]
)
def test_unreadable_progress_is_ignored(tmp_path, content):
    progress.write_progress(tmp_path, 3, {"seconds": 1.0})
    (tmp_path / "checkpoints" / "progress.json").write_bytes(content)
    assert progress.read_progress(tmp_path, 3) == {}


def test_damaged_progress_is_ignored(tmp_path):
    progress.write_progress(tmp_path, 3, {"seconds": 1.0})
    path = tmp_path / "checkpoints" / "progress.json"
    path.write_text(path.read_text().replace("1.0", "9.0"))
    assert progress.read_progress(tmp_path, 3) == {}


def test_scores_at_needs_all_splits():
    history = [{"step": 6, "val": 1}, {"step": 12, "loss": 1.0}, {"step": 12, "val": 2}]
    assert progress.scores_at(history, 12, ["val"]) == history[2]
    assert progress.scores_at(history, 12, ["val", "test"]) is None
    assert progress.scores_at(history, 7, ["val"]) is None
    assert progress.scores_at(history, 12, []) is None
