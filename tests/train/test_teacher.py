"""A teacher's features are those of `from_pretrained`, and a teacher that does not fit is one line."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax import from_pretrained
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.flags import parse_flags
from tpr_jax.distributed import sharding
from tpr_jax.errors import UserError
from tpr_jax.train import loop, teacher
from tpr_jax.train.setup import prepare, prepare_training
from tpr_jax.weights.clip import load_clip, save_clip


@pytest.fixture(scope="module")
def prepared(make_config):
    return prepare(make_config(losses__sdm=0.0, distill__scores=1.0, distill__teacher="unused"))


@pytest.fixture(scope="module")
def batch(prepared):
    return next(prepare_training(prepared).batches(0))


def run_with(prepared, **changes):
    """Returns the prepared run with other settings of `distill`."""
    config = prepared.config.copy_and_resolve_references()
    config.distill.update(changes)
    return type(prepared)(**{**vars(prepared), "config": config})


def write_cut(clip, folder, context_length: int, embed_dim: int):
    """Writes a CLIP with fewer positions of texts and fewer numbers of features."""
    config, params = load_clip(clip)
    params["text"]["positional_embedding"] = params["text"]["positional_embedding"][:context_length]
    for tower in params.values():
        tower["proj"] = tower["proj"][:, :embed_dim]
    config = dataclasses.replace(config, context_length=context_length, embed_dim=embed_dim)
    save_clip(folder, config, params)
    shutil.copyfile(f"{clip}/tokenizer.json", folder / "tokenizer.json")


def test_features_are_those_of_the_model(prepared, batch, tiny):
    """On the mesh of the run, of the images and the ids of the batch, which stay as they are."""
    run = run_with(prepared, teacher=tiny["clip"])
    on_mesh = sharding.shard_batch(run.mesh, {key: batch[key] for key in ("image", "ids", "pid")})
    found = teacher.make_annotate(run)(on_mesh)
    model = from_pretrained(tiny["clip"])
    texts = np.asarray(model.encoders[1](model.inference_variables, batch["ids"]))
    images = np.asarray(found["teacher_image"])
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    np.testing.assert_allclose(images, model.encode_images(list(batch["image"])), atol=2e-6)
    np.testing.assert_allclose(found["teacher_text"], texts, rtol=1e-4, atol=1e-6)
    assert found.keys() == on_mesh.keys() | {"teacher_image", "teacher_text"}
    assert all(found[key] is on_mesh[key] for key in on_mesh)


def test_features_of_further_captions(prepared, batch, tiny):
    """Each row keeps its captions together."""
    run = run_with(prepared, teacher=tiny["clip"])
    one = {key: batch[key] for key in ("image", "ids")}
    two = one | {"ids": np.stack([batch["ids"], batch["ids"][::-1]], axis=1)}
    first, second = (teacher.make_annotate(run)(sharding.shard_batch(run.mesh, rows)) for rows in (one, two))
    texts = np.asarray(first["teacher_text"])
    expected = np.stack([texts, texts[::-1]], axis=1)
    np.testing.assert_allclose(second["teacher_text"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(second["teacher_image"], first["teacher_image"], rtol=1e-5)


def test_without_a_teacher_batches_stay_as_they_are(prepared):
    given = {"image": 1}
    assert teacher.make_annotate(run_with(prepared, teacher=""))(given) is given


def test_a_run_learns_from_another(make_config, tmp_path):
    """A run's folder is a teacher; the student's similarities approach its own, and it is saved alone."""
    loop.train(make_config(num_epochs=1, eval_every=0), tmp_path / "teacher")
    changes = {"distill__teacher": str(tmp_path / "teacher"), "distill__scores": 1.0}
    changes |= {"losses__sdm": 0.0, "losses__balance": 0.0}
    loop.train(make_config(**changes, num_epochs=5, eval_every=0), tmp_path / "student")
    lines = (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()
    divergence = [row["distill_scores"] for row in map(json.loads, lines) if "loss" in row]
    assert np.mean(divergence[-6:]) < 0.7 * np.mean(divergence[:6])
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("teacher", "student")]
    assert results[0]["total_params"] == results[1]["total_params"]
    assert from_pretrained(tmp_path / "student").variables.keys() == {"params", "moe"}


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("clip-mini", {"scores": 1.0}, "has another vocabulary than"),
        ("no/folder", {"scores": 1.0}, "no/folder"),
        ("untold", {"scores": 1.0}, "has no tokenizer.json"),
        ("short", {"scores": 1.0}, "set config.text_length=8"),
        ("narrow", {"feats": 1.0}, "16 numbers, the student's 32: set config.distill.feats=0"),
    ],
)
def test_a_teacher_that_does_not_fit(prepared, tiny, tmp_path, name, changes, words):
    if name == "untold":
        shutil.copytree(tiny["clip"], tmp_path / name)
        (tmp_path / name / "tokenizer.json").unlink()
    elif name in ("short", "narrow"):
        write_cut(tiny["clip"], tmp_path / name, *{"short": (8, 32), "narrow": (24, 16)}[name])
    given = str(tmp_path / name) if (tmp_path / name).exists() else name
    with pytest.raises(UserError, match=words) as error:
        teacher.make_annotate(run_with(prepared, teacher=given, **{"scores": 0.0, **changes}))
    assert "\n" not in str(error.value)


def test_a_teacher_that_is_not_there_leaves_the_folder_free(make_config, tmp_path):
    given = {"distill__teacher": str(tmp_path / "nowhere"), "distill__scores": 1.0}
    with pytest.raises(UserError, match="nowhere"):
        loop.train(make_config(**given), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distill.scores=1"], "config.distill.scores=1.0 needs a teacher"),
        (["distill.teacher=clip-mini"], "has no effect: set config.distill.scores=1"),
    ],
)
def test_a_teacher_and_its_losses_come_together(tiny, words, message):
    with pytest.raises(UserError, match=message):
        config = parse_flags(
            ["main", "--config", tiny["config"], "--workdir", "x", *(f"--config.{word}" for word in words)]
        )[0]
        config_lib.check(config)
