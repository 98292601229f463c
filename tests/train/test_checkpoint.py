"""Saving and restoring trees, which checkpoints are kept, damaged checkpoints, and full disks."""

import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import ROOT, forced_devices
from tests.ports import free_port
from tpr_jax.errors import UserError
from tpr_jax.train import checkpoint


def state(value: float) -> dict:
    rng = np.random.default_rng(0)
    return {
        "trainable": {"moe": {"kernel": jnp.asarray(rng.standard_normal((7, 5)) * value, jnp.float32)}},
        "opt": (jnp.full((3,), value, jnp.bfloat16), {"count": jnp.asarray(int(value), jnp.int32)}),
        "step": jnp.asarray(int(value), jnp.int32),
    }


# `latest` and `best` of one run, each step saved in both while neither waits for the other.
TWO_PROCESSES = """
import sys
from pathlib import Path
import jax, numpy as np
from tpr_jax.train import checkpoint
index, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index, cluster_detection_method="deactivate")
everywhere = jax.sharding.NamedSharding(jax.make_mesh((2,), ("data",)), jax.sharding.PartitionSpec())
size = (5_000_000,)  # the first process writes while the second already waits
managers = [checkpoint.open_manager(folder / name, keep=1) for name in ("latest", "best")]
for step in range(1, 4):
    kernel = jax.make_array_from_process_local_data(everywhere, np.full(size, step, np.float32), size)
    for manager in managers:
        checkpoint.save(manager, step, {"kernel": kernel}, {"step": step})
for manager in managers:
    checkpoint.finish(manager)
    step, state, notes, broken = checkpoint.restore_newest(manager, {"kernel": kernel})
    assert (step, notes, broken) == (3, {"step": 3}, []) and (np.asarray(state["kernel"]) == 3).all()
jax.distributed.shutdown()
"""


@pytest.fixture
def manager(tmp_path):
    with checkpoint.open_manager(tmp_path / "latest", keep=2) as opened:
        yield opened


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save(manager, *steps):
    for step in steps:
        checkpoint.save(manager, step, state(step), {"best_r1": step / 3, "zero_shot": None})
    checkpoint.finish(manager)


def test_empty_folder(manager):
    assert checkpoint.restore_newest(manager, state(1)) is None


def test_round_trip_is_exact_and_keeps_the_newest_two(manager):
    save(manager, 3, 5, 9)
    assert sorted(manager.all_steps()) == [5, 9]
    step, found, notes, broken = checkpoint.restore_newest(manager, state(0))
    assert (step, broken) == (9, [])
    assert_same_bits(found, state(9))
    assert notes == {"best_r1": 3.0, "zero_shot": None}


def test_two_managers_in_two_processes_do_not_share_barriers(tmp_path):
    """The names of Orbax' barriers contain the step but not the folder."""
    port, environment = str(free_port()), forced_devices(1) | {"PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(index), port, str(tmp_path)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said


def test_saves_the_state_as_of_the_call(manager):
    """The train step donates the memory of the state while the file is still being written."""
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    big = {**state(4), "large": jnp.arange(500_000, dtype=jnp.float32)}
    checkpoint.save(manager, 4, big, {})
    big = overwrite(big)
    checkpoint.finish(manager)
    _, found, _, _ = checkpoint.restore_newest(manager, big)
    np.testing.assert_array_equal(found["large"], np.arange(500_000))
    assert int(found["step"]) == 4


DAMAGES = {
    "data cut off": lambda step: [path.write_bytes(path.read_bytes()[:10]) for path in step.rglob("d/*")],
    "data empty": lambda step: [path.write_bytes(b"") for path in step.rglob("d/*")],
    "manifest cut off": lambda step: (step / "state" / "manifest.ocdbt").write_bytes(b"\x0c\xdb"),
    "no _METADATA": lambda step: (step / "state" / "_METADATA").unlink(),
    "no notes": lambda step: shutil.rmtree(step / "notes"),
    "notes cut off": lambda step: (step / "notes" / "metadata").write_text('{"seconds": 1'),
    "no state": lambda step: shutil.rmtree(step / "state"),
    "nothing in it": lambda step: [shutil.rmtree(step), step.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_newest_falls_back(manager, damage):
    save(manager, 5, 9)
    damage(Path(manager.directory / "9"))
    step, found, _, broken = checkpoint.restore_newest(manager, state(0))
    assert (step, broken) == (5, [9])
    assert_same_bits(found, state(5))


def flipped(path: Path, position: int) -> bytes:
    """Returns the content of a file with one bit flipped."""
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    return bytes(content)


@pytest.mark.parametrize("seed", range(8))
def test_never_restores_a_flipped_bit(tmp_path, seed):
    """Restores either this step or the one before, exactly as it was saved."""
    rng = np.random.default_rng(seed)
    with checkpoint.open_manager(tmp_path / "latest", keep=2) as opened:
        save(opened, 5, 9)
    files = [path for path in sorted((tmp_path / "latest" / "9").rglob("*")) if path.is_file()]
    for path in files:
        whole = path.read_bytes()
        for position in rng.integers(0, 8 * len(whole), 3 if whole else 0):
            path.write_bytes(flipped(path, int(position)))
            with checkpoint.open_manager(tmp_path / "latest", keep=2) as opened:
                step, found, notes, broken = checkpoint.restore_newest(opened, state(0))
            assert (step, broken) in ((9, []), (5, [9])), (path, position)
            assert_same_bits(found, state(step))
            assert notes == {"best_r1": step / 3, "zero_shot": None}
        path.write_bytes(whole)


def test_flipped_bits_in_an_array_fall_back(manager):
    """Orbax itself reads such bytes back as another number."""
    save(manager, 5, 9)
    raw = np.asarray(state(9)["trainable"]["moe"]["kernel"]).tobytes()
    holding = [p for p in Path(manager.directory / "9").rglob("d/*") if raw in p.read_bytes()]
    for path in holding:
        path.write_bytes(flipped(path, 8 * (path.read_bytes().find(raw) + 50)))
    step, found, _, broken = checkpoint.restore_newest(manager, state(0))
    assert holding
    assert (step, broken) == (5, [9])
    assert_same_bits(found, state(5))


def test_restores_a_checkpoint_without_checksums(manager):
    """As older versions wrote them."""
    ocp = checkpoint.ocp
    notes = {"best_r1": 1.5, "zero_shot": None}
    manager.save(
        5, args=ocp.args.Composite(state=ocp.args.StandardSave(state(5)), notes=ocp.args.JsonSave(notes))
    )
    checkpoint.finish(manager)
    step, found, read, broken = checkpoint.restore_newest(manager, state(0))
    assert (step, read, broken) == (5, notes, [])
    assert_same_bits(found, state(5))
    assert checkpoint.read_notes(manager, 5) == notes


def test_notes_alone(manager):
    save(manager, 6)
    assert checkpoint.read_notes(manager, 6) == {"best_r1": 2.0, "zero_shot": None}
    path = manager.directory / "6" / "notes" / "metadata"
    path.write_text(path.read_text().replace('"best_r1": 2.0', '"best_r1": 3.0'))
    with pytest.raises(ValueError, match="notes differ from what was saved"):
        checkpoint.read_notes(manager, 6)
    path.unlink()
    with pytest.raises(ValueError, match="not found"):
        checkpoint.read_notes(manager, 6)


def test_all_damaged(manager):
    save(manager, 5, 9)
    for step in ("5", "9"):
        shutil.rmtree(manager.directory / step / "state")
    with pytest.raises(
        UserError, match=r"none of the checkpoints in .*latest can be read \(steps \[9, 5\]"
    ) as e:
        checkpoint.restore_newest(manager, state(0))
    assert "\n" not in str(e.value)


def test_does_not_restore_other_shapes(manager):
    save(manager, 5)
    other = state(0)
    other["trainable"]["moe"]["kernel"] = jnp.zeros((7, 6))
    with pytest.raises(UserError, match="none of the checkpoints"):
        checkpoint.restore_newest(manager, other)


def test_half_written_folder_is_not_a_checkpoint(manager, tmp_path):
    """A run that is killed with `kill -9` leaves such a folder."""
    save(manager, 5)
    shutil.copytree(tmp_path / "latest" / "5", tmp_path / "latest" / "9.orbax-checkpoint-tmp")
    with checkpoint.open_manager(tmp_path / "latest", keep=2) as opened:
        assert checkpoint.restore_newest(opened, state(0))[0] == 5
        save(opened, 9)
        assert checkpoint.restore_newest(opened, state(0))[0] == 9


@pytest.mark.parametrize(
    "error",
    [ValueError("RESOURCE_EXHAUSTED: Error writing local file"), OSError(28, "No space left on device")],
)
def test_full_disk(manager, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(manager, "save", fail)
    with pytest.raises(
        UserError, match=r"no space left on the disk of .*latest: free some space and rerun the same"
    ):
        checkpoint.save(manager, 1, state(1), {})
    monkeypatch.setattr(manager, "wait_until_finished", fail)
    with pytest.raises(UserError, match="no space left"):
        checkpoint.finish(manager)
    monkeypatch.undo()


def test_other_errors_keep_their_type(manager, monkeypatch):
    def fail(*_, **__):
        raise ValueError("something else")

    monkeypatch.setattr(manager, "save", fail)
    with pytest.raises(ValueError, match="something else"):
        checkpoint.save(manager, 1, state(1), {})


@pytest.mark.parametrize(
    "error",
    [
        ValueError("PERMISSION_DENIED: Error opening file: Permission denied [os_error_code='13']"),
        PermissionError(13, "Permission denied"),
    ],
)
def test_read_only_disk(manager, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(manager, "save", fail)
    with pytest.raises(UserError, match=r"latest cannot be written \(permission denied\): check that"):
        checkpoint.save(manager, 1, state(1), {})
    monkeypatch.undo()
