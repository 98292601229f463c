"""A run that was killed and resumed has the same losses and parameters, to the last bit."""

import json
import os
import shlex
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tpr_jax.train import loop
from tpr_jax.train.evaluate import Evaluator
from tpr_jax.utils.signals import Stopped

LAST = 120


def rows(workdir) -> list[dict]:
    """Returns the rows of a run without what depends on the clock."""
    path = workdir / "metrics.jsonl"
    timed = (
        *("examples_per_second", "step_seconds", "input_wait", "seconds"),
        *("model_flops_per_second", "peak_share", "device_memory_bytes"),
    )
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in whole]


def final_state(workdir, step=LAST) -> dict:
    """Restores a checkpoint onto one device, whatever devices and processes wrote it."""
    reader, path = ocp.StandardCheckpointer(), workdir / "checkpoints" / "latest" / str(step) / "state"
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        reader.metadata(path.absolute()).item_metadata.tree,
    )
    return reader.restore(path.absolute(), like)


def assert_same_bits(one: dict, other: dict) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_same_run(workdir, reference, last=LAST) -> None:
    assert rows(workdir) == rows(reference)
    assert_same_bits(final_state(workdir, last), final_state(reference, last))
    one, other = (json.loads((w / "results.json").read_text()) for w in (workdir, reference))
    assert one["peak_memory_bytes"] > 2e8
    measured = {"seconds": 0, "peak_memory_bytes": 0}
    assert {**one, **measured} == {**other, **measured}


def kill_when(process, happened) -> None:
    deadline = time.time() + 200
    while not happened():
        assert process.poll() is None, f"ended before it could be killed: {process.communicate()}"
        assert time.time() < deadline
        time.sleep(0.03)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def first_checkpoint(workdir):
    return (workdir / "checkpoints" / "latest" / "10" / "commit_success.txt").exists() or (
        workdir / "checkpoints" / "latest" / "10" / "_CHECKPOINT_METADATA"
    ).exists()


def later(workdir):
    """Returns whether an evaluation was logged; its `best` checkpoint may still be in progress."""
    path = workdir / "metrics.jsonl"
    return path.exists() and any(row["step"] == 60 and "val" in row for row in rows(workdir))


@pytest.mark.slow
def test_killed_twice_gives_the_same_run(start, run, finished, tmp_path):
    reference, _ = finished
    workdir = tmp_path / "run"
    kill_when(start(workdir), lambda: first_checkpoint(workdir))
    assert not (workdir / "results.json").exists()
    kill_when(start(workdir), lambda: later(workdir))
    process = run(workdir)
    assert process.returncode == 0, process.stderr
    assert "resumed at step " in process.stdout and process.stderr == ""
    assert_same_run(workdir, reference)
    # Once more: nothing is left to do, and nothing changes.
    again = run(workdir)
    assert again.returncode == 0 and f"resumed at step {LAST} of {LAST}" in again.stdout
    assert_same_run(workdir, reference)


@pytest.mark.everywhere
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_saves_and_stops_on_a_signal(start, make_config, finished, tmp_path, number):
    """SIGTERM, which a cluster sends before it preempts a machine, is not an error."""
    reference, _ = finished
    workdir = tmp_path / "run"
    process = start(workdir)
    while not (
        (workdir / "metrics.jsonl").exists() and len(rows(workdir)) >= 4
    ):  # the first evaluation is at 30
        assert process.poll() is None, process.communicate()
        time.sleep(0.03)
    process.send_signal(number)
    stdout, stderr = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        (line,) = stderr.splitlines()
        assert line.startswith("error: stopped at step ") and "rerun the same command to resume" in line
        step = int(line.split()[4].rstrip(","))
    else:
        assert process.returncode == 0 and stderr == ""
        line = stdout.splitlines()[-1]
        command = shlex.join(["python", "-m", *process.args[2:]])
        assert line.startswith("stopped at step ") and line.endswith(
            f"which is saved; resume with: {command}"
        )
        step = int(line.split()[3].rstrip(","))
    assert step >= 4 and final_state(workdir, step)["step"] == step
    loop.train(make_config(), workdir)
    assert_same_run(workdir, reference)


@pytest.mark.everywhere
def test_stops_during_an_evaluation(make_config, finished, tmp_path):
    """Runs in this process, where the moment of the signal can be chosen."""
    reference, _ = finished
    score, calls = Evaluator.score_split, []

    def scored(evaluator, variables, split, *encoders):
        calls.append(split)
        if calls.count("val") == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on")
        return score(evaluator, variables, split, *encoders)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "score_split", scored)
        with pytest.raises(Stopped) as stopped:
            loop.train(make_config(checkpoint_every=1000), tmp_path)
    assert stopped.value.number == signal.SIGTERM and "newest checkpoint has all steps" in str(stopped.value)
    assert final_state(tmp_path, 60)["step"] == 60
    loop.train(make_config(checkpoint_every=1000), tmp_path)
    assert_same_run(tmp_path, reference)


@pytest.mark.everywhere
def test_saves_and_ends_quietly_on_a_closed_pipe(start, make_config, tmp_path, capsys):
    """Like `... | head`: the reader closes the pipe after a few lines."""
    process = start(tmp_path, "--config.eval_every=1")
    lines = [process.stdout.readline()]
    while lines[-1].startswith("a subset of cuhk_pedes:"):
        lines.append(process.stdout.readline())
    assert lines[-1].startswith("zero-shot, test:")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    assert [row["step"] for row in rows(tmp_path)][-2:] == [6, 6]  # logged, and scored, at the epoch's end
    assert final_state(tmp_path, 6)["step"] == 6
    loop.train(make_config(eval_every=1, total_steps=8), tmp_path)
    assert "resumed at step 6 of 8" in capsys.readouterr().out
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 8]


@pytest.mark.everywhere
@pytest.mark.parametrize("cut", [6, 14])  # at the end of an epoch, and in the middle of one
def test_resumes_a_shorter_run(make_config, finished, tmp_path, cut):
    results = loop.train(make_config(total_steps=cut), tmp_path)
    assert results["steps"] == cut and final_state(tmp_path, cut)["step"] == cut
    results = loop.train(make_config(total_steps=18), tmp_path)
    assert results["steps"] == 18
    trained = [[row for row in rows(w) if "loss" in row] for w in (tmp_path, finished[0])]
    assert len(trained[0]) == 18 and trained[0] == trained[1][:18]


@pytest.mark.everywhere
def test_another_seed_gives_another_run(make_config, finished, tmp_path):
    """The comparisons above can fail."""
    loop.train(make_config(seed=1, total_steps=1, eval_every=0), tmp_path)
    assert rows(tmp_path)[0]["loss"] != rows(finished[0])[0]["loss"]
    with pytest.raises(AssertionError):
        assert_same_bits(final_state(tmp_path, 1), final_state(finished[0]))
