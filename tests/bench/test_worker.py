"""Subjects in processes of their own that take turns."""

import sys

import pytest

from tpr_jax.bench import worker
from tpr_jax.errors import UserError

SMALL = {"kind": "product", "dtype": "float32", "size": 64}


def test_a_subject_is_timed_and_one_that_cannot_be_made_says_why():
    said = []
    found, broken = worker.measure([SMALL, {**SMALL, "dtype": "float99"}], 2, said.append)
    assert len(found["seconds"]) == 2 and all(0 < s < 1 for s in found["seconds"])
    assert found["flops"] == 2 * 64**3 and found["peak_memory_bytes"] > 2**20
    assert {key: found[key] for key in SMALL} == SMALL
    assert "float99" in broken["error"] and "seconds" not in broken
    assert said[0] == "making ready: product float32" and said[-1] == "turn 2 of 2"


# A process that answers as `serve` does, without JAX, and writes down when it was asked.
STAND_IN = """
import json, sys
subject = json.loads(sys.argv[1])
print(json.dumps({"flops": 1.0, "compile_seconds": 0.0}), flush=True)
for turn, _ in enumerate(sys.stdin):
    if turn == subject.get("ends"):
        break
    open(subject["log"], "a").write(subject["name"])
    print(json.dumps({"seconds": 1.0 + turn, "peak_memory_bytes": 5}), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Subjects as processes of `STAND_IN`; the path of their log."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    real = worker.subprocess.Popen

    def popen(command, **settings):
        return real([sys.executable, str(tmp_path / "stand_in.py"), command[-1]], **settings)

    monkeypatch.setattr(worker.subprocess, "Popen", popen)
    return tmp_path / "log"


def test_they_take_turns_each_time_in_the_other_order(stand_in):
    subjects = [{"kind": "x", "name": name, "log": str(stand_in)} for name in "abc"]
    found = worker.measure(subjects, 3)
    assert stand_in.read_text() in ("abccbaabc", "cbaabccba")
    assert all(row["seconds"] == [1.0, 2.0, 3.0] and worker.median_seconds(row) == 2.0 for row in found)


def test_one_that_ends_amid_its_turns(stand_in):
    subject = {"kind": "x", "name": "a", "log": str(stand_in), "ends": 1}
    with pytest.raises(UserError, match="the process that times x ended early"):
        worker.measure([subject], 3)


def test_labels():
    step = {"kind": "train_step", "config": "cskt", "backbone": "clip_mini", "dtype": "float32", "batch": 8}
    assert worker.label(step) == "cskt train_step clip_mini float32 8"
    more = {**step, "method.prompts": 2, "devices": 4, "seconds": [0.1]}
    assert worker.label(more) == "cskt train_step clip_mini float32 8 method.prompts=2 devices=4"


def test_devices_are_asked_for_before_jax_starts(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert worker.environment(SMALL)["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
    asked = worker.environment({**SMALL, "devices": 3})
    assert asked["XLA_FLAGS"].split()[1:] == ["--xla_force_host_platform_device_count=3"]
    assert asked["JAX_PLATFORMS"] == "cpu" and "JAX_PLATFORMS" not in worker.environment(SMALL)
