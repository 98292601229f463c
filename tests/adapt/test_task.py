"""What an adaptation trains, its optimizer, its features and its batches."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import tpr_jax
from tests import search_galleries
from tests.adapt.tiny_settings import make_settings
from tests.saved_models import trained
from tpr_jax.adapt import task as task_lib
from tpr_jax.adapt.step import PHOTO_STREAM, TEXT_STREAM, rows_of_step
from tpr_jax.data.tokenizer import folder_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models import methods
from tpr_jax.utils.trees import flatten


@pytest.fixture(scope="module")
def settings(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "texts.txt").write_text("A person in a red coat.\nblue below, red above\nwhite trousers\n")
    return make_settings(tiny, folder / "texts.txt", steps=8, seed=3)


@pytest.fixture(scope="module")
def prepared(settings):
    said = []
    return (*task_lib.prepare(settings, said.append), said)


def adapter_model(clip):
    return trained(clip, methods.parallel_adapter(), (32, 16), tokenizer=folder_tokenizer(clip))


def test_trains_the_layer_norms_alone(prepared):
    task, facts, said = prepared
    names = set(flatten(task.trainable))
    assert names == {
        f"params/{path}/{leaf}"
        for path in (
            *("visual/ln_pre", "visual/ln_post", "visual/block_0/ln_1", "visual/block_0/ln_2"),
            *("text/ln_final", "text/block_0/ln_1", "text/block_0/ln_2"),
        )
        for leaf in ("scale", "bias")
    }
    assert names.isdisjoint(flatten(task.frozen))
    assert facts == {
        "parameters": 14 * 64,
        "photos": 52,
        "photos_found": 52,
        "descriptions": 3,
        "made_up": False,
    }
    assert said == ["adapting 896 parameters to 52 photos and 3 descriptions"]


def test_trains_the_parts_alone(tiny):
    model = adapter_model(Path(tiny["clip"]))
    method, names, patterns = task_lib.trained_weights(model, "parts")
    assert (method, names, patterns) == (model.method, ("adapter",), ())
    method, names, patterns = task_lib.trained_weights(model, "layer_norm")
    assert names == ("params",) and method.tuned == patterns == methods.layer_norm().tuned
    assert method.vision == model.method.vision
    again = dataclasses.replace(model, method=method)
    assert task_lib.trained_weights(again, "layer_norm")[0].tuned == method.tuned


def test_a_plain_clip_has_no_parts(tiny):
    with pytest.raises(
        UserError, match=r"--train parts: .* is a plain CLIP without trained parts; use --train"
    ):
        task_lib.trained_weights(tpr_jax.from_pretrained(tiny["clip"]), "parts")


def test_features_are_those_of_the_model(prepared, settings):
    task, _, _ = prepared
    texts, photos = task.features(task.trainable)
    model = tpr_jax.from_pretrained(settings.model)
    np.testing.assert_allclose(photos, model.encode_images(list(task.pixels)), atol=1e-5)
    lines = Path(settings.texts).read_text().splitlines()
    np.testing.assert_allclose(texts, model.encode_texts(lines), atol=1e-5)


def test_features_are_those_of_the_trained_weights(prepared):
    task, _, _ = prepared
    changed = jax.tree.map(lambda leaf: leaf + 0.1, task.trainable)
    for one, other in zip(task.features(changed), task.features(task.trainable), strict=True):
        assert np.abs(one - other).max() > 1e-3


def test_the_rate_falls_to_zero(settings):
    trainable = {"params": {"scale": np.ones(1, np.float32)}}
    optimizer = task_lib.make_optimizer(settings, trainable)
    state, weights, sizes = optimizer.init(trainable), trainable, []
    for _ in range(settings.steps + 1):
        updates, state = optimizer.update({"params": {"scale": np.ones(1, np.float32)}}, state, weights)
        sizes.append(-float(updates["params"]["scale"][0]))
        weights = optax.apply_updates(weights, updates)
    # Adam's update of a constant gradient is the rate.
    wanted = [1e-2 * 0.5 * (1 + np.cos(np.pi * step / 8)) for step in range(9)]
    np.testing.assert_allclose(sizes, wanted, rtol=1e-3, atol=1e-7)


def test_batch_holds_the_labels_of_its_rows(prepared):
    task, _, _ = prepared
    rng = np.random.default_rng(0)
    text_labels, photo_labels = rng.random((3, 52)).astype(np.float32), rng.random((52, 3)).astype(np.float32)
    batch = task_lib.make_batch(task, 5, text_labels, photo_labels)
    rows, texts = rows_of_step(52, 6, 5, 3, PHOTO_STREAM), rows_of_step(3, 12, 5, 3, TEXT_STREAM)
    np.testing.assert_array_equal(batch["image_labels"], photo_labels[rows])
    np.testing.assert_array_equal(batch["text_labels"], text_labels[texts])
    np.testing.assert_array_equal(batch["ids"], task.ids[texts])
    assert batch["image"].shape == (6, 32, 16, 3) and batch["image"].dtype == np.uint8
    other = dataclasses.replace(task, settings=dataclasses.replace(task.settings, seed=4))
    assert not np.array_equal(
        task_lib.make_batch(other, 5, text_labels, photo_labels)["image"], batch["image"]
    )


def test_without_texts_the_descriptions_are_made_up(settings, monkeypatch):
    said = []
    _, facts = task_lib.prepare(dataclasses.replace(settings, texts=None), said.append)
    assert facts["descriptions"] == 256 and facts["made_up"]
    assert said == ["adapting 896 parameters to 52 photos and 256 made-up descriptions"]


def test_a_model_without_a_tokenizer(own_clip, settings):
    (own_clip / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer.json, so it cannot read descriptions"):
        task_lib.prepare(dataclasses.replace(settings, model=str(own_clip)), print)


def test_names_some_of_the_files_that_are_skipped(settings, tmp_path):
    search_galleries.photos(tmp_path, 2)
    for n in range(12):
        (tmp_path / f"{n:02}.mp4").write_bytes(b"a video")
    said = []
    task_lib.prepare(dataclasses.replace(settings, photos=str(tmp_path)), said.append)
    assert [line.split(":")[:2] for line in said[:10]] == [["skipped", f" {n:02}.mp4"] for n in range(10)]
    assert said[10] == "... and 2 more, among them .mp4 (2)" and "2 photos" in said[11]
