"""Saving into an existing folder: only files of an earlier save are replaced, all together."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import tpr_jax
from tests.clip_folder import FOLDER
from tests.conftest import ROOT
from tests.saved_models import trained, write_backbone
from tests.tiny_clip import SETTINGS, quick_compilation  # noqa: F401
from tpr_jax.data.tokenizer import clip_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models import methods
from tpr_jax.utils.trees import flatten
from tpr_jax.weights import save_folder
from tpr_jax.weights.clip import load_clip, save_clip
from tpr_jax.weights.files import read_state, write_state

FOREIGN = "was not written by an earlier save here and would be replaced"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "clip")


@pytest.fixture
def plain(clip):
    """Returns a tuned CLIP, which is saved as a plain folder."""
    return trained(clip, methods.full_finetune(), seed=3)


@pytest.fixture
def adapted(clip):
    return trained(clip, methods.prefix(2), seed=3)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(found, wanted):
    left, right = flatten(found.variables), flatten(wanted.variables)
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg=path)


def shard(folder):
    """Splits the weights of a folder in two files, as Hugging Face does with large ones."""
    state = read_state(folder / "model.safetensors")
    names, weight_map = sorted(state), {}
    for i in range(2):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        write_state(folder / file, {name: state[name] for name in names[i::2]})
        weight_map |= dict.fromkeys(names[i::2], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    return folder


def test_rejects_a_folder_of_shards_and_keeps_it(plain, clip, tmp_path):
    folder = shard(shutil.copytree(clip, tmp_path / "clip"))
    before = content(folder)
    with pytest.raises(UserError, match=FOREIGN) as error:
        plain.save_pretrained(folder)
    assert "\n" not in str(error.value) and "save to another folder, or move it away" in str(error.value)
    assert content(folder) == before


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        *("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"),
        *("open_clip_model.safetensors", "ViT-B-16.pt", "adapter.safetensors", "adapter_model.safetensors"),
        *("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"),
        *("preprocessor_config.json", "processor_config.json", "open_clip_config.json"),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "adapted"])
def test_rejects_a_file_that_no_save_wrote(request, tmp_path, name, kind):
    (tmp_path / name).write_text("mine")
    model = request.getfixturevalue(kind)
    with pytest.raises(UserError, match=f"{name}: {FOREIGN}"):
        model.save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("kind", ["plain", "adapted"])
def test_rejects_a_foreign_file_beside_an_earlier_save(request, clip, tmp_path, kind):
    model = request.getfixturevalue(kind)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    before = content(tmp_path)
    with pytest.raises(UserError, match=f"model.safetensors.index.json: {FOREIGN}"):
        model.save_pretrained(tmp_path)
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json", "tokenizer.json"])
def test_rejects_a_file_that_was_changed(plain, tmp_path, name):
    import dataclasses

    model = dataclasses.replace(plain, tokenizer=clip_tokenizer(7))
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)  # unchanged, so it is replaced
    with (tmp_path / name).open("ab") as file:
        file.write(b" ")
    before = content(tmp_path)
    with pytest.raises(UserError, match=f"{name}: {FOREIGN}"):
        model.save_pretrained(tmp_path)
    assert content(tmp_path) == before


def test_does_not_save_onto_the_backbone(clip, tmp_path):
    own = shutil.copytree(clip, tmp_path / "clip")
    before = content(own)
    for folder in (own, tmp_path / "x" / ".." / "clip"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="is the backbone's own folder; save the model to another one"):
            tpr_jax.from_pretrained(own, image_size=(24, 8)).save_pretrained(folder)
    link = tmp_path / "link"
    link.symlink_to(own)
    with pytest.raises(UserError, match="is the backbone's own folder"):
        tpr_jax.from_pretrained(own).save_pretrained(link)
    assert content(own) == before


@pytest.mark.parametrize(
    "method", [methods.lora(rank=2), methods.linear_probe(), methods.up_person(**SETTINGS["up_person"])]
)
def test_does_not_save_a_merged_model_onto_its_backbone(clip, tmp_path, method):
    """An adapter would no longer find the weights that it refers to by their SHA-256."""
    own = tmp_path / "clip"
    trained(clip, methods.full_finetune(), seed=3).save_pretrained(own)  # a folder that a save may replace
    adapted = trained(own, method, seed=4)
    adapted.save_pretrained(tmp_path / "adapted")
    before, merged = content(own), adapted.merge()
    (tmp_path / "link").symlink_to(own)
    for model in (merged, merged.merge(), tpr_jax.from_pretrained(tmp_path / "adapted").merge()):
        for folder in (own, str(own), tmp_path / "link"):
            with pytest.raises(UserError, match="is the backbone's own folder; save the model to another"):
                model.save_pretrained(folder)
    assert content(own) == before
    assert_same(tpr_jax.from_pretrained(tmp_path / "adapted"), adapted)
    merged.save_pretrained(tmp_path / "merged")
    assert_same(tpr_jax.from_pretrained(tmp_path / "merged"), merged)


def test_does_not_replace_a_foreign_clip(plain, tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "theirs")
    (folder / "model.safetensors").unlink()  # even if only config.json is there
    before = content(folder)
    with pytest.raises(UserError, match=f"config.json: {FOREIGN}"):
        plain.save_pretrained(folder)
    assert content(folder) == before


def test_replaces_an_earlier_save_and_removes_its_other_files(clip, tmp_path):
    import dataclasses

    first = trained(clip, methods.full_finetune(), seed=3)
    second = trained(clip, methods.full_finetune(), seed=4)
    dataclasses.replace(first, tokenizer=clip_tokenizer(7)).save_pretrained(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert (tmp_path / "tokenizer.json").exists()
    second.save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists() and (tmp_path / "notes.txt").read_text() == "mine"
    again = tpr_jax.from_pretrained(tmp_path)
    assert_same(again, second)
    assert again.tokenizer is None


def test_removes_an_unused_bundled_backbone(clip, tmp_path):
    trained(clip, methods.prefix(2), backbone=None).save_pretrained(tmp_path)
    assert (tmp_path / "backbone" / "model.safetensors").exists()
    model = trained(clip, methods.prefix(2), seed=5)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "backbone").exists()
    assert_same(tpr_jax.from_pretrained(tmp_path), model)
    # The user's own weights in it stay.
    inside = trained(clip, methods.prefix(2), backbone=None)
    inside.save_pretrained(tmp_path)
    (tmp_path / "backbone" / "pytorch_model.bin").write_text("mine")
    with pytest.raises(UserError, match=f"backbone/pytorch_model.bin: {FOREIGN}"):
        inside.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert [path.name for path in (tmp_path / "backbone").iterdir()] == ["pytorch_model.bin"]


def test_keeps_a_backbone_of_the_user(tmp_path):
    """The user saved it there before; this model may be trained on it or not."""
    own = write_backbone(tmp_path / "m" / "backbone")
    before = content(own)
    for at in (own, write_backbone(tmp_path / "other", seed=5)):
        for _ in range(2):
            model = trained(at, methods.prefix(2))
            model.save_pretrained(tmp_path / "m")
            assert_same(tpr_jax.from_pretrained(tmp_path / "m"), model)
    assert content(own) == before


def test_repeats_an_interrupted_save_with_a_bundled_backbone(clip, tmp_path, monkeypatch):
    model = trained(clip, methods.prefix(2), backbone=None)
    model.save_pretrained(tmp_path)
    replace = os.replace

    def dying(source, target):
        if os.path.basename(target) == "adapter.safetensors" and os.path.dirname(target) == str(tmp_path):
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(Killed):
        model.save_pretrained(tmp_path)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match="interrupted"):
        tpr_jax.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert_same(tpr_jax.from_pretrained(tmp_path), model)


def test_replaces_models_of_the_first_version(clip, tmp_path):
    """Their config.json has no record of files."""
    for backbone in ({}, {"backbone": None}):
        model = trained(clip, methods.prefix(2), **backbone)
        model.save_pretrained(tmp_path / "m")
        for path in tmp_path.rglob("config.json"):
            old = json.loads(path.read_text())
            del old[save_folder.RECORD]
            path.write_text(json.dumps(old))
        again = trained(clip, methods.prefix(2), seed=9, **backbone)
        again.save_pretrained(tmp_path / "m")
        assert_same(tpr_jax.from_pretrained(tmp_path / "m"), again)
        shutil.rmtree(tmp_path / "m")


class Killed(BaseException):
    """Ends the process, as far as the code can tell."""


@pytest.mark.parametrize("kind", ["full_finetune", "prefix"])
def test_a_killed_save_leaves_the_old_or_new_model_or_is_reported(clip, tmp_path, monkeypatch, kind):
    method = methods.METHODS[kind](**({"length": 2} if kind == "prefix" else {}))
    old, new = (trained(clip, method, seed=seed) for seed in (3, 4))
    replace, outcomes = os.replace, []
    for stop in range(20):
        folder = tmp_path / str(stop)
        old.save_pretrained(folder)
        count = 0

        def dying(source, target, stop=stop, folder=folder):
            nonlocal count
            if os.path.dirname(target) == str(folder):
                count += 1
                if count > stop:
                    raise Killed
            replace(source, target)

        monkeypatch.setattr(os, "replace", dying)
        try:
            new.save_pretrained(folder)
            killed = False
        except Killed:
            killed = True
        monkeypatch.setattr(os, "replace", replace)
        try:
            found = tpr_jax.from_pretrained(folder)
        except UserError as error:
            outcomes.append("told")
            assert "a save that was interrupted" in str(error) and "\n" not in str(error)
        else:
            same = all(
                np.array_equal(a, b)
                for a, b in zip(jax.tree.leaves(found.variables), jax.tree.leaves(new.variables), strict=True)
            )
            outcomes.append("new" if same else "old")
            assert_same(found, new if same else old)
        new.save_pretrained(folder)  # saving again works
        assert_same(tpr_jax.from_pretrained(folder), new)
        if not killed:
            break
    assert outcomes[0] == "old" and "told" in outcomes and outcomes[-1] == "new"


def test_a_full_disk_leaves_the_earlier_model(plain, clip, tmp_path, monkeypatch):
    from tpr_jax.weights import files

    plain.save_pretrained(tmp_path)
    before = content(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(UserError, match=r"no space left on the disk of .*model.safetensors") as error:
        trained(clip, methods.full_finetune(), seed=4).save_pretrained(tmp_path)
    assert ".saving" not in str(error.value)
    assert content(tmp_path) == before


def test_unusable_arguments_leave_no_folder(plain, tmp_path):
    with pytest.raises(UserError, match="results has no 'dataset'"):
        plain.save_pretrained(tmp_path / "new", results={"method": "x"})
    assert not (tmp_path / "new").exists()


def test_save_clip_replaces_its_own_weights_only(tmp_path):
    config, params = load_clip(FOLDER)
    save_clip(tmp_path / "a", config, params)
    save_clip(tmp_path / "a", config, params, dtype="float16")
    (tmp_path / "a" / "pytorch_model.bin").write_text("mine")
    with pytest.raises(UserError, match=f"pytorch_model.bin: {FOREIGN}"):
        save_clip(tmp_path / "a", config, params)


def test_a_record_names_files_beside_it_only(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "m").mkdir()
    record = {"../mine.txt": "0" * 64, "": "0" * 64, "model.safetensors": None, "gone": 3}
    (tmp_path / "m" / "config.json").write_text(json.dumps({save_folder.RECORD: record}))
    assert save_folder.written_before(tmp_path / "m") == set()
    save_folder.remove(tmp_path / "m")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_run_that_could_not_save_its_model_ends_before_training(own_clip, make_config, tmp_path):
    from tpr_jax.train.loop import train

    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "pytorch_model.bin").write_text("mine")
    with pytest.raises(UserError, match=f"run/model/pytorch_model.bin: {FOREIGN}"):
        train(make_config(total_steps=2), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_next_save_removes_what_a_killed_one_left(clip, tmp_path):
    code = (
        "import os, sys, tpr_jax; from tpr_jax.weights import save_folder;"
        "save_folder.move_over = lambda *_: os._exit(9);"
        "tpr_jax.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
    )
    folder = tmp_path / "m"
    assert subprocess.run([sys.executable, "-c", code, clip, folder], cwd=ROOT).returncode == 9
    left = {path.name for path in folder.iterdir()}
    assert any(name.startswith(".saving.") for name in left)
    (folder / ".config.json.abcd1234.tmp").write_text("x")
    (folder / ".saving.mine").write_text("x")
    trained(clip, methods.full_finetune(), seed=3).save_pretrained(folder)
    hidden = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    assert hidden == [".saving.mine"]
