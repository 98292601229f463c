"""A disk that fills up while a run writes: one line, whichever write failed, and nothing after it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import small_disk, without_tensorflow
from tests.train.test_resume import assert_same_run
from tpr_jax import errors
from tpr_jax.train import checkpoint, writer
from tpr_jax.utils import files as writing

ROOT = Path(__file__).parents[2]
TOLD = "no space left on the disk of {}: free some space and rerun the same command to resume\n"

# Many arrays that cannot be compressed: when the first of them fails, the others are still being written.
SAVES = """
import sys
from pathlib import Path
import jax.numpy as jnp
import numpy as np
from tpr_jax.train import checkpoint
from tpr_jax.errors import UserError

state = {str(i): jnp.asarray(np.random.default_rng(i).normal(size=500)) for i in range(300)}
for folder in sys.argv[1:]:
    manager = checkpoint.open_manager(Path(folder), keep=1)
    try:
        checkpoint.save(manager, 1, state, {})
        checkpoint.finish(manager)
    except UserError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """The variables of the processes here, which start without TensorFlow."""
    return {**os.environ, **without_tensorflow.environment(tmp_path_factory.mktemp("site"))}


def full(*_, **__):
    raise OSError(28, "No space left on device", "metrics.jsonl")


def full_quota(*_, **__):
    raise OSError(122, "Disk quota exceeded", "metrics.jsonl")


def too_large(*_, **__):
    raise OSError(27, "File too large")


def too_large_in_tensorstores_words(*_, **__):
    raise ValueError("UNKNOWN: Error writing local file: File too large [os_error_code='27' type='EFBIG']")


def full_in_tensorstores_words(*_, **__):
    raise ValueError("RESOURCE_EXHAUSTED: Error writing file: No space left on device [os_error_code='28']")


@pytest.mark.parametrize(
    ("where", "what", "error"),
    [
        (checkpoint.ocp.CheckpointManager, "save", full_in_tensorstores_words),
        (checkpoint.ocp.CheckpointManager, "wait_until_finished", full_in_tensorstores_words),
        (checkpoint.ocp.CheckpointManager, "save", full),
        (writer.events, "write_scalars", full),
        (writing.os, "replace", full),
    ],
)
def test_full_disk_at_each_write(tiny, tmp_path, explained, capsys, monkeypatch, where, what, error):
    monkeypatch.setattr(where, what, error)
    flags = ["--config", tiny["config"], "--workdir", tmp_path / "run", "--config.total_steps=10"]
    line = explained(capsys, *flags)
    assert "no space left on the disk of " in line and "rerun the same command to resume" in line


@pytest.mark.parametrize(
    ("where", "what", "error", "told"),
    [
        (
            writer.events,
            "write_scalars",
            full_quota,
            "the disk quota for metrics.jsonl is used up: free some space",
        ),
        (
            writer.events,
            "write_scalars",
            too_large,
            "metrics.jsonl would exceed the size limit of this shell",
        ),
        (
            writing.os,
            "replace",
            too_large,
            "config.json would exceed the size limit of this shell or disk",
        ),
        (
            checkpoint.ocp.CheckpointManager,
            "wait_until_finished",
            too_large_in_tensorstores_words,
            "would exceed the size limit of this shell or disk: raise it (ulimit -f)",
        ),
    ],
)
def test_other_limits_have_their_own_messages(
    tiny, tmp_path, explained, capsys, monkeypatch, where, what, error, told
):
    monkeypatch.setattr(where, what, error)
    flags = ["--config", tiny["config"], "--workdir", tmp_path / "run", "--config.total_steps=10"]
    assert told in explained(capsys, *flags)


def test_describe_disk_limit_knows_only_disk_limits():
    described = errors.describe_disk_limit
    assert described(OSError(28, "No space left on device", "a/b")).startswith(
        "no space left on the disk of a/b:"
    )
    assert described(OSError(28, "No space left on device"), "c").startswith(
        "no space left on the disk of c:"
    )
    assert described(OSError(27, "File too large")).startswith("a file of this run would exceed")
    assert described(ValueError("RESOURCE_EXHAUSTED: x"), "c").startswith("no space left on the disk of c:")
    for other in (OSError(13, "Permission denied"), ValueError("a bug"), OSError("no number")):
        assert described(other, "c") is None


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 8, 40, 100, 300])
def test_file_size_limit(tiny, finished, environment, tmp_path, blocks):
    """Limits by ulimit -f, in KB, that fail in the config, the log, the checkpoints and the report.

    The finished run has compiled everything, so that JAX writes nothing into its cache, where it would warn.
    """
    flags = ["--config", tiny["config"], "--workdir", str(tmp_path / "run")]
    command = ["bash", "-c", 'ulimit -f "$0" && exec "$@"', str(blocks), sys.executable, "-m", "tpr_jax.main"]
    told = {"env": environment, "capture_output": True, "text": True}
    process = subprocess.run([*command, *flags], cwd=ROOT, **told)
    (line,) = process.stderr.splitlines()
    assert process.returncode == 2
    assert (
        line.startswith("error: ") and " would exceed the size limit of this shell or disk: raise it" in line
    )
    if blocks in (1, 40, 300):  # the lowest, the middle and the highest limit
        # With the limit raised the same command resumes and finishes.
        process = subprocess.run([*command[4:], *flags], cwd=ROOT, **told)
        assert (process.returncode, process.stderr) == (0, "")


def test_failed_checkpoint_prints_only_the_error(on_small_disk):
    call, disk = on_small_disk
    folders = [str(disk / str(attempt)) for attempt in range(8)]
    process = call(300, sys.executable, "-c", SAVES, *folders)
    assert process.stdout == "".join(TOLD.format(folder) for folder in folders)
    assert process.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kilobytes", "flags"), [(700, []), (16, ["--config.checkpoint_every=1000", "--config.eval_every=0"])]
)
def test_full_disk_during_a_run(tiny, on_small_disk, kilobytes, flags):
    """The disk is full while the run saves a checkpoint, and while it logs."""
    call, disk = on_small_disk
    flags = ["--config", tiny["config"], "--workdir", str(disk / "run"), *flags]
    process = call(kilobytes, sys.executable, "-m", "tpr_jax.main", *flags)
    (line,) = process.stderr.splitlines()
    assert process.returncode == 2
    assert line.startswith("error: no space left on the disk")
    assert line.endswith(": free some space and rerun the same command to resume")


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [300, 700])
def test_resumes_after_the_disk_was_enlarged(tiny, finished, on_small_disk, environment, tmp_path, kilobytes):
    _, disk = on_small_disk
    command = [
        sys.executable,
        "-m",
        "tpr_jax.main",
        "--config",
        tiny["config"],
        "--workdir",
        str(disk / "run"),
    ]
    small_disk.run_enlarging(kilobytes, disk, tmp_path / "copy", command, environment)
    assert_same_run(tmp_path / "copy/run", finished[0])
    left = [path for path in (tmp_path / "copy").rglob("*") if path.name.endswith((".tmp", "-tmp"))]
    assert left == []


def test_other_unraisable_exceptions_are_still_reported():
    seen = []
    report = checkpoint._without_late_calls(seen.append)

    class Unraisable:
        def __init__(self, error):
            self.exc_type, self.exc_value = type(error), error

    late = Unraisable(RuntimeError("Event loop is closed"))
    others = [Unraisable(RuntimeError("something else")), Unraisable(ValueError("Event loop is closed"))]
    for unraisable in (late, *others):
        report(unraisable)
    assert seen == others
