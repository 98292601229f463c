"""Two processes of four devices each as one run: results as with one process, and clear errors."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import without_tensorflow
from tests.conftest import ROOT, forced_devices, made_once
from tests.ports import free_port
from tests.train.test_resume import assert_same_bits, final_state, rows
from tpr_jax.weights.files import read_state, write_state

EIGHT = {"one": 8, "two": 4}
# Few steps, but two epochs, evaluations and checkpoints.
FLAGS = ["--config.total_steps=12", "--config.eval_every=1", "--config.checkpoint_every=2"]
LAST = 12


def begin(tiny, workdir, devices: int, *flags: str, tensorflow: bool = False) -> subprocess.Popen:
    command = [sys.executable, "-m", "tpr_jax.main", "--config", tiny["config"], "--workdir", str(workdir)]
    # Compiling for many devices takes longer than these steps; `test_resume.py` runs as users compile.
    environment = forced_devices(devices, quick=True) | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    if not tensorflow:
        site = workdir.with_suffix(".site")
        site.mkdir(parents=True, exist_ok=True)
        environment |= without_tensorflow.environment(site)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, *FLAGS, *flags], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    )


def begin_two(
    tiny, workdir, *flags: str, second: tuple[str, ...] = (), tensorflow: bool = False
) -> list[subprocess.Popen]:
    """Starts both; `second` has further flags of the second process only."""
    where = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    return [
        begin(
            tiny,
            workdir,
            4,
            *(*where, f"--process_id={i}", *flags, *(second if i else ())),
            tensorflow=tensorflow,
        )
        for i in range(2)
    ]


def ended(processes) -> list[tuple[int, str, str]]:
    """Returns (exit code, stdout, stderr) of each."""
    return [(p.returncode, *said) for p, said in [(p, p.communicate(timeout=400)) for p in processes]]


@pytest.fixture(scope="session", params=["8x1", "2x4"])
def whole(request, tiny, tmp_path_factory):
    """Returns (flags, workdir) of a run of one process on eight devices, which tests only read.

    One of the meshes has two captions and some of the patches of each image.
    """
    data, model = request.param.split("x")
    mesh = [f"--config.mesh.data={data}", f"--config.mesh.model={model}"]
    if model == "1":
        mesh += ["--config.captions_per_image=2", "--config.patch_dropout=0.25"]

    def make(folder: Path) -> None:
        ((code, _, stderr),) = ended([begin(tiny, folder / "run", 8, *mesh, tensorflow=True)])
        assert code == 0, stderr

    return mesh, made_once(tmp_path_factory, f"whole_{request.param}", make) / "run"


@pytest.fixture(scope="session")
def uncut(tiny, tmp_path_factory) -> Path:
    """The workdir of an undisturbed run of two processes, which tests only read.

    The second reads a copy of the data set, as if each machine had its own.
    """

    def make(folder: Path) -> None:
        copy = f"--config.data_dir={shutil.copytree(tiny['data'], folder / 'data')}"
        found = ended(begin_two(tiny, folder / "run", second=(copy,)))
        assert [code for code, _, _ in found] == [0, 0], found

    return made_once(tmp_path_factory, "two_processes", make) / "run"


def assert_close_runs(workdir, reference) -> None:
    """Checks that runs agree up to the order of sums over processes."""
    found, expected = rows(workdir), rows(reference)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        if "loss" in one:
            np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
    mine, theirs = (
        final_state(w, LAST)["trainable"]["moe"]["visual"]["block_0"] for w in (workdir, reference)
    )
    for part in ("down", "up"):
        a, b = (np.asarray(x["beside_mlp"][part]["kernel"]) for x in (mine, theirs))
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b)


@pytest.mark.slow
def test_two_processes_are_one_run_and_only_the_first_writes(whole, tiny, tmp_path):
    mesh, reference = whole
    first, second = ended(begin_two(tiny, tmp_path / "run", *mesh, tensorflow=True))
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "report.html" in first[1] and (second[1], second[2]) == ("", "")
    assert_close_runs(tmp_path / "run", reference)
    names = [sorted(path.name for path in folder.iterdir()) for folder in (tmp_path / "run", reference)]
    assert names[0] == names[1]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    results = [json.loads((w / "results.json").read_text()) for w in (tmp_path / "run", reference)]
    assert results[0]["final"].keys() == results[1]["final"].keys()
    # The same weights before the first step: a picture not read by whom it belongs to would show.
    assert results[0]["zero_shot"] == results[1]["zero_shot"]


def wait_for_step(process, workdir, step: int) -> None:
    path = workdir / "metrics.jsonl"
    while not (path.exists() and any(row["step"] >= step for row in rows(workdir))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("whole", "lost", "again"), [("8x1", 0, 2), ("2x4", 1, 1)], indirect=["whole"])
def test_one_is_killed_the_other_says_so_and_a_restart_goes_on(tiny, tmp_path, whole, lost, again):
    """With as many processes as before, or with one."""
    mesh, reference = whole
    workdir = tmp_path / "run"
    processes = begin_two(tiny, workdir, *mesh)
    wait_for_step(processes[0], workdir, 5)
    processes[lost].send_signal(signal.SIGKILL)
    code, _, stderr = ended([processes[1 - lost]])[0]
    assert code == 1
    ended([processes[lost]])
    assert (
        f"error: process {lost} ended unexpectedly; rerun the same command to resume"
        in stderr.splitlines()[-1]
    )
    assert "Traceback" not in stderr
    restarted = begin_two(tiny, workdir, *mesh) if again == 2 else [begin(tiny, workdir, 8, *mesh)]
    found = ended(restarted)
    assert [code for code, _, _ in found] == [0] * again, found
    assert "resumed at step " in found[0][1]
    assert_close_runs(workdir, reference)


@pytest.mark.slow
def test_sigterm_to_one_stops_all_and_they_resume_exactly(tiny, tmp_path, uncut):
    workdir = tmp_path / "run"
    processes = begin_two(tiny, workdir)
    wait_for_step(processes[0], workdir, 3)
    processes[1].send_signal(signal.SIGTERM)
    (code, stdout, stderr), other = ended(processes)
    assert (code, other[0], stderr) == (0, 0, ""), (stdout, stderr, other)
    line = stdout.splitlines()[-1]
    assert line.startswith("stopped") and "; resume with: python -m tpr_jax.main --config" in line
    assert shlex.split(line.partition("resume with: ")[2])[3:7:2] == ["--config", "--workdir"]
    assert [code for code, _, _ in ended(begin_two(tiny, workdir))] == [0, 0]
    assert rows(workdir) == rows(uncut)
    assert_same_bits(final_state(workdir, LAST), final_state(uncut, LAST))


def test_a_peer_that_never_comes(run, tmp_path):
    port = free_port()
    where = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", "--peer_timeout=1"]
    first = run(tmp_path / "run", *where, "--process_id=0")
    assert (first.returncode, first.stdout) == (2, "")
    assert first.stderr.startswith(f"error: process 1 of 2 did not connect to 127.0.0.1:{port} within 1 s")
    second = run(tmp_path / "run", *where, "--process_id=1")
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr.startswith(f"error: process 0 does not answer at 127.0.0.1:{port} within 1 s")
    assert first.stderr.count("\n") == second.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_mistake_that_one_notices_ends_all_with_its_line(tiny, own_data, tmp_path):
    """An image in the shard of one process cannot be read."""
    victim = min((own_data / "imgs").iterdir())
    victim.write_bytes(b"not a picture")
    found = ended(begin_two(tiny, tmp_path / "run", f"--config.data_dir={own_data}"))
    assert [code for code, _, _ in found] == [2, 2], found
    for _, _, stderr in found:
        assert stderr.startswith(f"error: {victim}: ") and stderr.count("\n") == 1


@pytest.mark.slow
def test_pictures_that_cannot_be_read_are_listed_whoever_tried_them(tiny, own_data, tmp_path):
    """The images are in both splits, and in the shards of both processes."""
    entries = json.loads((own_data / "reid_raw.json").read_text())
    victims = set()
    for split in ("train", "test"):
        pictures = [entry["file_path"] for entry in entries if entry["split"] == split]
        victims |= {str(own_data / "imgs" / name) for name in (pictures[0], pictures[7], pictures[-1])}
    for victim in victims:
        Path(victim).write_bytes(b"not a picture")
    flags = [f"--config.data_dir={own_data}", "--config.on_bad_image=skip"]
    found = ended(begin_two(tiny, tmp_path / "run", *flags))
    assert [code for code, _, _ in found] == [0, 0], found
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["skipped"]["pictures"]) == victims


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--config.seed=1"], "another command than process 0: config.seed is 1 instead of 0"),
        (
            ["--config.total_steps=6"],
            "another command than process 0: config.total_steps is 6 instead of 12",
        ),
        (["--mode=eval"], "another command than process 0: --mode is 'eval' instead of 'train'"),
    ],
)
def test_rejects_processes_with_different_commands(tiny, tmp_path, flags, told):
    found = ended(begin_two(tiny, tmp_path / "run", second=tuple(flags)))
    assert [code for code, _, _ in found] == [2, 2], found
    for _, _, stderr in found:
        assert stderr == f"error: process 1 was started with {told}: start the same command on all\n"
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["fewer images", "another caption", "other weights"])
def test_rejects_processes_with_different_data(tiny, own_data, own_clip, tmp_path, what):
    """As if each machine had its own copy; `uncut` has two that are equal."""
    entries = json.loads((own_data / "reid_raw.json").read_text())
    flags, told = [f"--config.data_dir={own_data}"], "another data set than process 0: train.annotations is "
    if what == "fewer images":
        entries.remove(next(entry for entry in entries if entry["split"] == "train"))
        told = "another data set than process 0: train.images is 23 instead of 24"
    if what == "another caption":
        next(entry for entry in entries if entry["split"] == "train")["captions"][0] = "Somebody else."
    if what == "other weights":
        state = dict(read_state(own_clip / "model.safetensors"))
        name = min(name for name in state if state[name].ndim == 2)
        write_state(own_clip / "model.safetensors", state | {name: state[name] * 2})
        flags, told = [f"--config.backbone={own_clip}"], "another backbone than process 0: checksum is "
    (own_data / "reid_raw.json").write_text(json.dumps(entries))
    found = ended(begin_two(tiny, tmp_path / "run", second=tuple(flags)))
    assert [code for code, _, _ in found] == [2, 2], found
    for _, _, stderr in found:
        assert stderr.startswith(f"error: process 1 was started with {told}") and stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("whole", ["8x1"], indirect=True)
def test_one_process_stops_and_two_resume(tiny, tmp_path, whole):
    """A process is added instead of lost."""
    mesh, reference = whole
    workdir = tmp_path / "run"
    process = begin(tiny, workdir, 8, *mesh)
    wait_for_step(process, workdir, 5)
    process.send_signal(signal.SIGKILL)
    ended([process])
    found = ended(begin_two(tiny, workdir, *mesh))
    assert [code for code, _, _ in found] == [0, 0], found
    assert "resumed at step " in found[0][1]
    assert_close_runs(workdir, reference)


@pytest.mark.slow
@pytest.mark.parametrize("whole", ["2x4"], indirect=True)  # its weights are sharded
def test_resumes_on_other_devices(tiny, tmp_path, whole):
    """Eight, then two, then one: the last with a mesh of its own."""
    mesh, reference = whole
    workdir = tmp_path / "run"
    for devices, steps in ((8, 4), (2, 8), (1, 12)):
        layout = mesh if devices == 8 else ["--config.mesh.data=-1", "--config.mesh.model=1"]
        ((code, _, stderr),) = ended(
            [begin(tiny, workdir, devices, *layout, f"--config.total_steps={steps}")]
        )
        assert (code, stderr) == (0, "")
    losses = [[row for row in rows(w) if "loss" in row] for w in (workdir, reference)]
    assert [row["step"] for row in losses[0]] == list(range(1, LAST + 1))
    for one, other in zip(*losses, strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-4)


@pytest.mark.slow
def test_two_fall_back_together_where_the_newest_checkpoint_is_damaged(tiny, tmp_path, uncut):
    workdir = shutil.copytree(uncut, tmp_path / "run")
    notes = workdir / "checkpoints" / "latest" / str(LAST) / "notes" / "metadata"
    content = json.loads(notes.read_text())
    path = min(content["checksums"]["arrays"])
    content["checksums"]["arrays"][path] ^= 1  # as if a bit of this array were another
    notes.write_text(json.dumps(content))
    found = ended(begin_two(tiny, workdir))
    assert [code for code, _, _ in found] == [0, 0], found
    assert f"checkpoint {LAST} cannot be read: fell back to step {LAST - 2}" in found[0][1]
    assert rows(workdir) == rows(uncut)
    assert_same_bits(final_state(workdir, LAST), final_state(uncut, LAST))
