"""Killed again and again at random moments, a run ends with the same parameters."""

import json
import re
import signal
import time

import numpy as np
import pytest

from tests import without_tensorflow
from tests.train.test_resume import assert_same_run, rows

KILLS, LAST, EVERY = 12, 300, 5
FLAGS = ["--config.num_epochs=50", f"--config.checkpoint_every={EVERY}", "--config.eval_every=8"]


def steps_done(workdir) -> int:
    path = workdir / "metrics.jsonl"
    return max((row["step"] for row in rows(workdir)), default=0) if path.exists() else 0


def live_and_die(process, workdir, rng) -> dict:
    """Kills a run as it starts, or some steps later: perhaps while it writes, evaluates or resumes."""
    began, before = time.monotonic(), steps_done(workdir)
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 12))
    else:
        # A resumed run first drops the rows behind its checkpoint.
        wanted = before - EVERY + rng.integers(1, 25)
        while steps_done(workdir) < wanted and process.poll() is None and time.monotonic() - began < 300:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.2))
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    stdout, _ = process.communicate()
    resumed = re.search(r"resumed at step (\d+)", stdout)
    return {
        "resumed": int(resumed[1]) if resumed else None,
        "reached": steps_done(workdir),
        "seconds": round(time.monotonic() - began, 1),
    }


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_killed_twelve_times_gives_the_same_run(start, run, tmp_path, capsys):
    """The killed processes run without TensorFlow; `test_resume.py` has two kills of others."""
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "run"
    assert run(undisturbed, *FLAGS).returncode == 0
    rng = np.random.default_rng(20)
    env = without_tensorflow.environment(tmp_path)
    lives = [live_and_die(start(workdir, *FLAGS, env=env), workdir, rng) for _ in range(KILLS)]
    last = run(workdir, *FLAGS)
    assert last.returncode == 0, last.stderr
    assert_same_run(workdir, undisturbed, LAST)
    # Each life begins at the newest whole checkpoint of the one before: one more may have been on its way.
    resumed = [life["resumed"] for life in lives[1:]] + [
        int(re.search(r"resumed at step (\d+)", last.stdout)[1])
    ]
    lost = [life["reached"] - at for life, at in zip(lives, resumed, strict=True) if at is not None]
    with capsys.disabled():
        print(json.dumps({"lives": lives, "lost": lost}))
    assert len(lost) > KILLS // 2 and max(lost) < 2 * EVERY + 1
    assert any(lost)
