"""Adaptations from beginning to end: what is written, resuming, and folders that are left alone."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import tpr_jax
from tests.adapt.tiny_settings import make_settings
from tests.saved_models import trained
from tpr_jax.adapt import run
from tpr_jax.data.tokenizer import folder_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models import methods
from tpr_jax.utils import signals

TEXTS = ["A person in a red coat.", "blue below, red above", "white trousers", "a black coat"]


@pytest.fixture(autouse=True, scope="module")
def short_rounds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "ROUND", 2)
        yield


@pytest.fixture(scope="module")
def settings(tiny, tmp_path_factory):
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(TEXTS))
    return make_settings(tiny, file, steps=5, seed=0)


def feats(folder):
    return tpr_jax.from_pretrained(folder).encode_texts(TEXTS)


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """The folder of an adaptation that was not interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run.adapt(settings, out, log=lambda line: None)
    return out


def test_writes_a_model_with_its_record(settings, whole):
    out, record = whole, json.loads((whole / "adapt.json").read_text())
    assert {path.name for path in out.iterdir()} == {
        *("README.md", "adapt.json", "adapter.safetensors", "config.json"),
    }
    assert record == json.loads((out / "config.json").read_text())["adapted"]
    assert record["settings"] == dataclasses.asdict(settings) and record["photos"] == 52
    card = (out / "README.md").read_text()
    assert (
        "## Adaptation without labels" in card and "Adapted to 52 photos and 4 descriptions, without" in card
    )
    assert "| learning rate" not in card and "| lr | 0.01 |" in card
    before = feats(settings.model)
    assert np.abs(feats(out) - before).max() > 1e-3
    said = []
    assert run.adapt(settings, out, log=said.append) == record and said == [f"{out}: is complete already"]


def test_an_adapter_keeps_its_parts_or_its_layer_norms(settings, tiny, tmp_path):
    clip = Path(tiny["clip"])
    trained(clip, methods.parallel_adapter(), (32, 16), tokenizer=folder_tokenizer(clip)).save_pretrained(
        tmp_path / "model"
    )
    own = dataclasses.replace(settings, model=str(tmp_path / "model"), steps=2)
    before = tpr_jax.from_pretrained(tmp_path / "model").variables
    for train, changed, kept in (("parts", "adapter", "params"), ("layer_norm", "params", "adapter")):
        run.adapt(dataclasses.replace(own, train=train), tmp_path / train, log=lambda line: None)
        after = tpr_jax.from_pretrained(tmp_path / train).variables
        assert same(before[kept], after[kept]) and not same(before[changed], after[changed])


def same(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


class Stop(Exception):
    pass


@pytest.fixture
def stop_at(monkeypatch):
    """Returns `stop_at(step)`, which makes making the batch of that step call a function."""

    def install(step, act):
        original = run.make_batch

        def make_batch(task, at, *labels):
            if at == step:
                act()
            return original(task, at, *labels)

        monkeypatch.setattr(run, "make_batch", make_batch)
        return lambda: monkeypatch.setattr(run, "make_batch", original)

    return install


def test_resumes_to_the_same_model(settings, whole, tmp_path, stop_at):
    def fail():
        raise Stop

    restore = stop_at(3, fail)
    with pytest.raises(Stop):
        run.adapt(settings, tmp_path / "out", log=lambda line: None)
    restore()
    said = []
    run.adapt(settings, tmp_path / "out", log=said.append)
    assert "resumed at step 2 of 5" in said
    np.testing.assert_array_equal(feats(tmp_path / "out"), feats(whole))
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_signal_stops_it(settings, tmp_path, stop_at):
    stop_at(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(signals.Stopped, match=r"^stopped; step 2 is saved$") as stopped:
        run.adapt(settings, tmp_path / "out", log=lambda line: None)
    assert stopped.value.number == signal.SIGTERM


def test_a_signal_stops_it_before_the_first_step(settings, tmp_path, monkeypatch):
    def prepare(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not interrupted")

    monkeypatch.setattr(run, "prepare", prepare)
    with pytest.raises(signals.Stopped, match=r"^stopped; every finished round is saved$") as stopped:
        run.adapt(settings, tmp_path / "out", log=lambda line: None)
    assert stopped.value.number == signal.SIGTERM and not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 3}, {"lr": 2e-2}, {"temperature": 0.1}])
def test_each_setting_matters(change, settings, whole, tmp_path):
    run.adapt(dataclasses.replace(settings, **change), tmp_path / "out", log=lambda line: None)
    assert np.abs(feats(tmp_path / "out") - feats(whole)).max() > 1e-5


def test_labels_follow_the_model(settings, tmp_path, monkeypatch):
    seen, original = [], run.pseudo_labels

    def noted(texts, photos, scale):
        seen.append((texts, scale))
        return original(texts, photos, scale)

    monkeypatch.setattr(run, "pseudo_labels", noted)
    run.adapt(settings, tmp_path / "out", log=lambda line: None)
    assert [scale for _, scale in seen] == [pytest.approx(20)] * 3  # before steps 0, 2 and 4
    assert np.abs(seen[0][0] - seen[1][0]).max() > 1e-4


@pytest.mark.parametrize("name", ["notes.txt", "config.json", "adapt.json"])
def test_leaves_other_folders_alone(name, settings, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        UserError, match=rf"^--out .*: holds {name}, which is not of an adaptation; give a new"
    ):
        run.adapt(settings, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_rejects_other_settings_and_files(settings, tmp_path):
    (tmp_path / "adapt.json").write_text(json.dumps({"settings": dataclasses.asdict(settings)}))
    with pytest.raises(
        UserError, match=r"holds an adaptation with --steps 5, not 6; give a new folder, or the"
    ):
        run.adapt(dataclasses.replace(settings, steps=6), tmp_path)
    with pytest.raises(UserError, match=r"is a file; give a new folder$"):
        run.adapt(settings, tmp_path / "adapt.json")


def test_a_rate_that_is_too_high(settings, tmp_path):
    with pytest.raises(
        UserError, match=r"^--lr 1e\+38: the update of step \d was not finite; give a lower --lr"
    ):
        run.adapt(dataclasses.replace(settings, lr=1e38), tmp_path / "out", log=lambda line: None)
    assert not (tmp_path / "out" / "config.json").exists()
