"""The mean and std of a backbone's folder are used everywhere: training, evaluation, saving, loading."""

import json
import math

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import tpr_jax
from tests.clip_folder import IMAGE_MEAN, IMAGE_STD, set_image_constants
from tests.saved_models import trained, write_backbone
from tpr_jax.data import pipeline
from tpr_jax.data.augment import ERASE_COLOR, augment_image, erase_color
from tpr_jax.errors import UserError
from tpr_jax.models import clip, methods
from tpr_jax.train import eval_run
from tpr_jax.train.loop import train
from tpr_jax.train.setup import prepare
from tpr_jax.train.step import jit_encoders


def unit(feats):
    return feats / np.linalg.norm(feats, axis=1, keepdims=True)


def pixels(size=(32, 16), count=8):
    return np.random.default_rng(0).integers(256, size=(count, *size, 3), dtype=np.uint8)


def params_of(folder, patches, text_length):
    """Counts the parameters of both towers in a folder, for this number of patches and tokens."""
    shapes = {name: leaf.shape for name, leaf in load_file(folder / "model.safetensors").items()}
    for name, rows in (("vision", patches + 1), ("text", text_length)):
        table = f"{name}_model.embeddings.position_embedding.weight"
        shapes[table] = (rows, shapes[table][1])
    others = ("position_ids", "logit_scale")
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(others))


@pytest.mark.parametrize("from_scratch", [False, True])
def test_training_uses_the_mean_and_std_of_the_folder(own_clip, make_config, from_scratch):
    set_image_constants(own_clip)
    run = prepare(make_config(backbone=own_clip, from_scratch=from_scratch))
    given = pixels()
    by_hand = (given / 255 - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
    variables = run.variables(run.trainable)
    encode = clip.build(run.clip_config, run.method)["encode_image"]
    wanted = encode(variables, by_hand.astype(np.float32))[0]
    np.testing.assert_allclose(run.encoders[0](variables, given), wanted, rtol=1e-4, atol=1e-4)
    # CLIP's own constants give other features.
    others = encode(variables, np.asarray(clip.normalize(given)))[0]
    assert np.abs(np.asarray(others) - np.asarray(wanted)).max() > 1e-2


def test_training_and_from_pretrained_give_the_same_features(own_clip, make_config):
    set_image_constants(own_clip)
    run = prepare(make_config(backbone=own_clip))
    zero_shot = jit_encoders(clip.build(run.clip_config, methods.zero_shot()), run.mesh, dtype="float32")
    params = run.variables(run.trainable)["params"]
    model = tpr_jax.from_pretrained(own_clip, image_size=(32, 16))
    assert (model.mean, model.std) == (IMAGE_MEAN, IMAGE_STD)
    found = unit(np.asarray(zero_shot[0]({"params": params}, pixels())))
    np.testing.assert_allclose(model.encode_images(list(pixels())), found, atol=1e-5)


def test_run_evaluation_and_saved_model_agree(own_clip, make_config, tmp_path):
    set_image_constants(own_clip)
    config = make_config(backbone=own_clip, total_steps=2, eval_every=0)
    found = train(config, tmp_path / "run")
    facts = {
        "name": str(own_clip),
        "revision": None,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "image_size": [32, 16],
        "text_length": 24,
        "from_scratch": False,
        "params": params_of(own_clip, patches=8, text_length=24),
    }
    assert found["backbone"] == {**facts, "act": "quick_gelu", "heads": [1, 1]}
    assert json.loads((tmp_path / "run" / "results.json").read_text())["backbone"] == found["backbone"]
    again = eval_run.evaluate_run(config, tmp_path / "run")
    assert again["test"] == found["final"]["test"] and again["backbone"] == found["backbone"]
    model = tpr_jax.from_pretrained(tmp_path / "run")
    assert (model.mean, model.std) == (IMAGE_MEAN, IMAGE_STD)
    # The saved model keeps them if the backbone's folder changes; a run reports the change.
    set_image_constants(own_clip, (0.5,) * 3)
    assert tpr_jax.from_pretrained(tmp_path / "run" / "model").mean == IMAGE_MEAN
    for again in (eval_run.evaluate_run, train):
        with pytest.raises(UserError, match=r"trained with image_mean=\[0.1, 0.5, 0.8\].*now has \[0.5, "):
            again(make_config(backbone=own_clip, total_steps=2, eval_every=0), tmp_path / "run")


def test_adapted_merged_and_plain_models_keep_mean_and_std(tmp_path):
    folder = set_image_constants(write_backbone(tmp_path / "clip"))
    model = trained(folder, methods.lora(rank=3))
    assert model.mean == IMAGE_MEAN
    images = list(pixels((12, 4), 3))
    for name, made in (("adapted", model), ("merged", model.merge())):
        made.save_pretrained(tmp_path / name)
        again = tpr_jax.from_pretrained(tmp_path / name)
        assert (again.mean, again.std) == (IMAGE_MEAN, IMAGE_STD)
        np.testing.assert_allclose(again.encode_images(images), model.encode_images(images), atol=1e-5)


def test_uint8_pixels_and_normalized_floats_give_the_same_features(tmp_path):
    model = trained(set_image_constants(write_backbone(tmp_path / "clip")), methods.prefix(2))
    encode = clip.build(model.config, model.method)["encode_image"]
    given = pixels((12, 4), 3)
    by_hand = (given / 255 - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
    found = [encode(model.variables, x)[0] for x in (given, by_hand.astype(np.float32))]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
    assert jax.tree.leaves(found)[0].dtype == np.float32


def test_erased_pixels_become_the_mean_of_the_backbone():
    color = erase_color((0.5, 0.25, 0), (0.5, 1, 0.3))
    np.testing.assert_array_equal(color, [191, 128, 0])  # 0.75, 0.5 and 0 times 255
    np.testing.assert_array_equal(erase_color(), ERASE_COLOR)
    np.testing.assert_array_equal(erase_color((0.9, -0.2, 0.5), (2, 2, 1)), [255, 0, 255])
    image = np.full((40, 20, 3), 7, np.uint8)
    result = augment_image(image, 0, flip_probability=0, pad=0, erase_probability=1, color=color)
    changed = (result != image).any(-1)
    assert changed.any() and (result[changed] == color).all()


def test_gallery_images_use_the_mean_and_std_of_the_folder(tmp_path):
    from tpr_jax.search.index.encode import make_encoder

    model = trained(set_image_constants(write_backbone(tmp_path / "clip")), methods.prefix(2))
    encoder, rows = make_encoder(model)
    given = pixels((12, 4), 2 * rows)
    np.testing.assert_allclose(np.asarray(encoder(given)), model.encode_images(list(given)), atol=2e-3)


def test_training_erases_with_the_mean_of_the_backbone(own_clip, make_config, tmp_path, monkeypatch):
    def stop(*_, color, **__):
        raise InterruptedError(color.tolist())

    set_image_constants(own_clip, (0.5, 0.25, 0), (0.5, 1, 0.3))
    monkeypatch.setattr(pipeline, "train_input", stop)
    with pytest.raises(InterruptedError, match=r"\[191, 128, 0\]"):
        train(make_config(backbone=own_clip), tmp_path / "run")
