"""Killed again and again at random moments, a run ends with the same parameters."""

import re
import signal
import time

import numpy as np
import pytest

from tests import without_tensorflow
from tests.train.test_resume import assert_same_run, rows

KILLS, LAST, EVERY = 12, 300, 5
FLAGS = ["--config.num_epochs=50", f"--config.checkpoint_every={EVERY}", "--config.eval_every=8"]
RESUMED = re.compile(r"resumed at step (\d+)")
# Of the lives, these end before they have resumed, unless the machine is much faster than at first.
AS_IT_STARTS = (3, 6, 10)


def steps_done(workdir) -> int:
    path = workdir / "metrics.jsonl"
    return max((row["step"] for row in rows(workdir)), default=0) if path.exists() else 0


def has_checkpoint(workdir) -> bool:
    """Returns whether a checkpoint is whole: until it is, its folder has a longer name."""
    latest = workdir / "checkpoints" / "latest"
    return latest.exists() and any(folder.name.isdigit() for folder in latest.iterdir())


def wait(process, happened) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def resumed_at(output) -> int | None:
    """Reads lines until one says at which step the run resumed."""
    return next((int(found[1]) for line in output if (found := RESUMED.search(line))), None)


def kill(process) -> str:
    """Kills a run that has not ended, and returns what it printed since its output was last read."""
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    return process.communicate()[0]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_killed_twelve_times_gives_the_same_run(start, run, tmp_path):
    """The killed processes run without TensorFlow; `test_resume.py` has two kills of others."""
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "run"
    assert run(undisturbed, *FLAGS).returncode == 0
    rng = np.random.default_rng(20)
    env = without_tensorflow.environment(tmp_path)

    began = time.monotonic()
    process = start(workdir, *FLAGS, env=env)
    wait(process, lambda: has_checkpoint(workdir))
    starting = time.monotonic() - began
    kill(process)
    resumed, reached = [], [steps_done(workdir)]
    for life in range(1, KILLS):
        process = start(workdir, *FLAGS, env=env)
        if life in AS_IT_STARTS:
            time.sleep(rng.uniform(0, starting))
            resumed.append(resumed_at(kill(process).splitlines()))
        else:
            resumed.append(resumed_at(process.stdout))
            assert resumed[-1] is not None, process.communicate()
            # Some steps later, perhaps while it writes or evaluates; rows behind its checkpoint go first.
            wanted = reached[-1] - EVERY + rng.integers(1, 25)
            wait(process, lambda wanted=wanted: steps_done(workdir) >= wanted)
            time.sleep(rng.uniform(0, 0.2))
            kill(process)
        reached.append(steps_done(workdir))
    last = run(workdir, *FLAGS)
    assert last.returncode == 0, last.stderr
    resumed.append(resumed_at(last.stdout.splitlines()))

    assert_same_run(workdir, undisturbed, LAST)
    assert resumed.count(None) <= len(AS_IT_STARTS), resumed
    # Each life begins at the newest whole checkpoint of the one before: one more may have been on its way.
    lost = [before - at for before, at in zip(reached, resumed, strict=True) if at is not None]
    assert max(lost) <= 2 * EVERY, (resumed, reached)
    assert any(lost)
