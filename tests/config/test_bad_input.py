"""User errors end with exit code 2 and one line that names the error and the remedy."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tpr_jax.data import pipeline
from tpr_jax.errors import UserError
from tpr_jax.train import eval_run, loop
from tpr_jax.weights.files import write_state


@pytest.fixture
def told(tiny, tmp_path, explained, capsys):
    """Returns `told(*flags)`, which runs with these flags, must fail immediately, and returns the line."""

    def call(*flags) -> str:
        return explained(capsys, "--config", tiny["config"], "--workdir", tmp_path / "run", *flags)

    return call


def losses(workdir: Path) -> list[float]:
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.bach_size=4", "config.bach_size is unknown: did you mean 'batch_size'?"),
        ("--config.optimizer.shedule=cosine", "did you mean 'optimizer.schedule'?"),
        ("--config.method.rank=4", "config.method.rank is unknown: choose from: method.name, method.num_"),
        ("--noconfig.augmnt", "config.augmnt is unknown: did you mean 'augment'?"),
        ("--config.dtype=float23", "config.dtype='float23' is unknown: did you mean 'float32'?"),
        ("--config.method.name=dm_adaptor", "did you mean 'dm_adapter'?"),
        ("--config.batch_size=many", "--config.batch_size=many"),
        ("--config.augment=maybe", "--config.augment=maybe"),
        ("--config.image_size=(8,8,8)", "config.image_size=(8, 8, 8) must be (height, width)"),
        (
            "--config.image_size=(30,4)",
            "image_size 30x4 is smaller than a patch of 8x8 pixels; use for example 30x8",
        ),
        ("--config.batch_size=4000", "batch_size 4000 does not fit 48 captions of data:train"),
        ("--config.seed=4294967296", "config.seed=4294967296 must be at most 4294967295"),
        (f"--config.seed={2**63}", f"config.seed={2**63} must be at most 4294967295"),
        (f"--config.few_shot_seed={10**30}", "config.few_shot_seed=1000"),
        ("--config.optimizer.eps=0.0", "config.optimizer.eps=0.0 must be at least 1e-20"),
        ("--config.optimizer.b1=1.0", "config.optimizer.b1=1.0 must be below 1"),
        (
            "--config.optimizer.milestones=(50,20)",
            "config.optimizer.milestones=(50, 20) must be increasing whole epochs",
        ),
        ("--config.text_length=2", "config.text_length=2 must be 0, the text tower's context"),
        ("--config.text_length=25", "config.text_length=25 is above the 24 tokens that the text tower of"),
        ("--config.losses.sdm=-1.0", "config.losses.sdm=-1.0 must be a number and not negative"),
        ("--config.pad=1000000", "config.pad=1000000 must be below 16, the shorter side"),
        ("--config.method.num_experts=1000000000", "config.method.num_experts=1000000000 must be at most"),
        (
            "--config.accumulate=3",
            "config.batch_size=8 must be a multiple of the 1 devices of the data axis times",
        ),
        ("--config.mesh.data=0", "config.mesh.data=0 must be a number of devices, or -1"),
        ("--config.mesh.data=3", "mesh.data=3 and mesh.model=1 do not make up the"),
        ("--config.backbone=/no/such/folder", "/no/such/folder: no such folder or file of CLIP weights"),
        ("--config.data_dir=/no/such/folder", "/no/such/folder: no such folder: set data_dir"),
        (
            "--workdir=gs://bucket/run",
            "gs://bucket/run is not a directory: mount the bucket as one",
        ),
        ("--mode=trian", "--mode trian is unknown: did you mean 'train'?"),
        ("--modus=train", "modus"),
        ("train", "argument 'train' is not understood"),
    ],
)
def test_command_lines(told, flag, words, tmp_path):
    assert words in told(flag)
    # A run that could not start does not claim the folder: the command can be fixed and retried.
    assert not (tmp_path / "run" / "config.json").exists()


def test_runs_without_tensorflow_and_jax(run, tmp_path):
    process = run(tmp_path / "run", "--config.bach_size=4")
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr == "error: config.bach_size is unknown: did you mean 'batch_size'?\n"


def test_weights_of_another_shape(told, tiny, tmp_path):
    folder = Path(shutil.copytree(tiny["clip"], tmp_path / "clip"))
    state = load_file(folder / "model.safetensors")
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    write_state(folder / "model.safetensors", state | {name: state[name][:-1]})
    line = told(f"--config.backbone={folder}")
    assert name in line and str(folder) in line
    (folder / "model.safetensors").unlink()
    assert "model.safetensors: no such file" in told(f"--config.backbone={folder}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entries: entries[3].pop("captions"), ["record 3", "field 'captions' is missing"]),
        (lambda entries: entries[3].update(id="x"), ["record 3", "field 'id' is 'x'"]),
        (lambda entries: entries[0].update(captions=["", "a"]), ["record 0", "item 0 is empty"]),
        (lambda entries: entries[0].update(captions=["a", 3]), ["record 0", "item 1 is not a string"]),
        (lambda entries: entries.clear(), ["no record of split 'train'"]),
    ],
)
def test_malformed_annotation(told, own_data, change, words):
    path = own_data / "reid_raw.json"
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))
    line = told(f"--config.data_dir={own_data}")
    assert "error: " + str(own_data) in line and all(word in line for word in words)


def test_missing_annotation(told, own_data):
    (own_data / "reid_raw.json").unlink()
    assert "reid_raw.json: no such file" in told(f"--config.data_dir={own_data}")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "text"])
def test_unreadable_images(told, own_data, split, damage):
    entries = json.loads((own_data / "reid_raw.json").read_text())
    victim = own_data / "imgs" / [e for e in entries if e["split"] == split][5]["file_path"]
    content = victim.read_bytes()
    victim.unlink()
    if damage != "missing":
        new = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"not a picture\n"}
        victim.write_bytes(new[damage])
    assert f"error: {victim}: " in told(f"--config.data_dir={own_data}")


def test_workdir_of_another_config(make_config, finished):
    workdir, _ = finished
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"holds a run of another config: config.seed was 0, is now 7"):
        loop.train(make_config(seed=7), workdir)
    with pytest.raises(UserError, match=r"config.method.num_experts was 3, is now 4"):
        eval_run.evaluate_run(make_config(method__num_experts=4), workdir)
    assert (workdir / "config.json").read_bytes() == before


def test_config_json_that_is_damaged(told, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"seed": ')
    assert "config.json is not a JSON object" in told()


def cut_off(step: Path) -> None:
    for path in step.rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_metadata(step: Path) -> None:
    (step / "state" / "_METADATA").unlink()


@pytest.mark.parametrize("damage", [cut_off, without_metadata])
def test_damaged_checkpoint_falls_back_to_the_one_before(finished, make_config, tmp_path, capsys, damage):
    reference, _ = finished
    workdir = Path(shutil.copytree(reference, tmp_path / "run"))
    latest = workdir / "checkpoints" / "latest"
    damage(latest / "120")
    found = loop.train(make_config(), workdir)
    said = capsys.readouterr().out
    assert "checkpoint 120 cannot be read: fell back to step 110" in said
    assert "resumed at step 110 of 120" in said
    assert losses(workdir) == losses(reference)
    expected = json.loads((reference / "results.json").read_text())
    measured = {"seconds": 0, "peak_memory_bytes": 0}
    assert {**found, **measured} == {**expected, **measured}
    # The damaged one was written again.
    loop.train(make_config(), workdir)
    assert "resumed at step 120 of 120" in capsys.readouterr().out


def test_no_checkpoint_can_be_read(finished, make_config, tmp_path):
    workdir = Path(shutil.copytree(finished[0], tmp_path / "run"))
    for path in (workdir / "checkpoints" / "latest").rglob("d/*"):
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"none of the checkpoints in .*latest can be read .*move the folder"
    ) as e:
        loop.train(make_config(), workdir)
    assert "\n" not in str(e.value)


def poisoned(monkeypatch, at_step: int) -> None:
    """Puts a NaN into the images from this step on (counted from 1)."""
    whole = pipeline.train_input

    def spoil(records, *args, **settings):
        batches = whole(records, *args, **settings)
        per_epoch = pipeline.steps_per_epoch(records, settings["batch_size"])

        def spoiled(epoch, start_step=0):
            for i, batch in enumerate(batches(epoch, start_step)):
                if epoch * per_epoch + start_step + i + 1 >= at_step:
                    image = batch["image"].astype(np.float32)
                    image[0, 0, 0, 0] = np.nan
                    batch = {**batch, "image": image}
                yield batch

        return spoiled

    monkeypatch.setattr(pipeline, "train_input", spoil)
    # The step for floats differs from that for bytes, which is compiled ahead of time.
    monkeypatch.setattr(loop.step, "compile_in_background", lambda update, *_: update)


@pytest.mark.parametrize("log_every", [1, 5])
def test_nan_in_the_loss_stops_and_keeps_the_last_good_state(finished, make_config, tmp_path, log_every):
    config = make_config(log_every=log_every)
    with pytest.MonkeyPatch.context() as patch:
        poisoned(patch, at_step=13)
        with pytest.raises(
            UserError, match=r"not finite at step 13: stopped, and the state after step 12 is"
        ):
            loop.train(config, tmp_path)
    assert all(np.isfinite(losses(tmp_path)))
    # The state kept is that of a healthy run: with valid images it continues normally.
    loop.train(make_config(log_every=1, total_steps=18), tmp_path)
    whole = losses(finished[0])[:18]
    assert losses(tmp_path)[-6:] == whole[-6:]
    if log_every == 1:
        assert losses(tmp_path) == whole


def test_diverging_run_in_a_process_of_its_own(run, tmp_path):
    process = run(tmp_path / "run", "--config.optimizer.lr=1e30", "--config.optimizer.warmup_epochs=0.0")
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: the loss, its gradient or the update was not finite at step 2: ")
    assert "lower config.optimizer.lr" in line


def test_other_system_errors_keep_their_traceback(tiny, tmp_path, monkeypatch):
    """Only errors that a user can fix are shortened; others are bugs and keep their traceback."""
    from tpr_jax import main
    from tpr_jax.cli.exit import explain_and_exit

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(loop, "write_json", broken)
    flags = ["--config", tiny["config"], "--workdir", str(tmp_path / "run")]
    with pytest.raises(OSError, match="Input/output error"):
        explain_and_exit(main.run, ["main", *flags])
