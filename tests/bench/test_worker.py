"""Workers that take turns."""

import sys

import pytest

from tpr_jax.bench import worker
from tpr_jax.errors import UserError

SMALL = {"kind": "product", "dtype": "float32", "size": 64}


def test_times_a_subject_and_reports_one_that_cannot_be_built():
    progress = []
    row, broken = worker.measure([SMALL, {**SMALL, "dtype": "float99"}], 2, progress.append)
    assert len(row["seconds"]) == 2 and all(0 < s < 60 for s in row["seconds"])
    assert len(row["cpu_seconds"]) == 2 and all(0 < s < 60 for s in row["cpu_seconds"])
    assert row["flops"] == 2 * 64**3 and row["peak_memory_bytes"] > 2**20
    assert {key: row[key] for key in SMALL} == SMALL
    assert "float99" in broken["error"] and "seconds" not in broken
    assert progress[0] == "building: product float32" and progress[-1] == "turn 2 of 2"


# Answers as `worker_main` does, without JAX, and logs each request.
STAND_IN = """
import json, sys
subject = json.loads(sys.argv[1])
print(json.dumps({"flops": 1.0, "compile_seconds": 0.0}), flush=True)
for turn, _ in enumerate(sys.stdin):
    if turn == subject.get("ends"):
        break
    open(subject["log"], "a").write(subject["name"])
    print(json.dumps({"seconds": 1.0 + turn, "cpu_seconds": 5.0 - turn, "peak_memory_bytes": 5}), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Replaces the workers by processes of `STAND_IN`; returns the path of their log."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    real = worker.subprocess.Popen

    def popen(command, **settings):
        return real([sys.executable, str(tmp_path / "stand_in.py"), command[-1]], **settings)

    monkeypatch.setattr(worker.subprocess, "Popen", popen)
    return tmp_path / "log"


def test_turns_alternate_in_direction(stand_in):
    subjects = [{"kind": "x", "name": name, "log": str(stand_in)} for name in "abc"]
    rows = worker.measure(subjects, 3)
    assert stand_in.read_text() in ("abccbaabc", "cbaabccba")
    assert all(row["seconds"] == [1.0, 2.0, 3.0] and worker.median_seconds(row) == 2.0 for row in rows)
    assert all(row["cpu_seconds"] == [5.0, 4.0, 3.0] for row in rows)


def test_reports_a_worker_that_ends_early(stand_in):
    subject = {"kind": "x", "name": "a", "log": str(stand_in), "ends": 1}
    with pytest.raises(UserError, match="the process that times x ended early"):
        worker.measure([subject], 3)


def test_describes_subjects():
    step = {"kind": "train_step", "config": "cskt", "backbone": "clip_mini", "dtype": "float32", "batch": 8}
    assert worker.describe(step) == "cskt train_step clip_mini float32 8"
    photos = {"kind": "index", "backbone": "vit_b_16", "dtype": "float32", "photos": 128}
    assert worker.describe(photos) == "index vit_b_16 float32 photos=128"
    more = {**step, "method.prompts": 2, "devices": 4, "seconds": [0.1]}
    assert worker.describe(more) == "cskt train_step clip_mini float32 8 method.prompts=2 devices=4"


def test_environment_forces_the_devices(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert worker.worker_environment(SMALL)["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
    environment = worker.worker_environment({**SMALL, "devices": 3})
    assert environment["XLA_FLAGS"].split()[1:] == ["--xla_force_host_platform_device_count=3"]
    assert environment["JAX_PLATFORMS"] == "cpu" and "JAX_PLATFORMS" not in worker.worker_environment(SMALL)
