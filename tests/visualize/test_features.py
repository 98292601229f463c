"""Features and inner activations: those of the model, with the image constants of its folder."""

import numpy as np
import pytest

import tpr_jax
from tests.clip_folder import set_image_constants
from tpr_jax.utils.normalize import l2_normalize
from tpr_jax.visualize import features


@pytest.fixture
def images():
    return list(np.random.default_rng(0).integers(0, 256, (5, 32, 16, 3), np.uint8))


def test_encode_images_matches_the_model_with_other_image_constants(own_clip, images):
    before = tpr_jax.from_pretrained(own_clip, image_size=(32, 16)).encode_images(images)
    model = tpr_jax.from_pretrained(set_image_constants(own_clip), image_size=(32, 16))
    feats = features.encode_images(model, images)
    np.testing.assert_allclose(feats, model.encode_images(images), atol=1e-6)
    assert np.abs(feats - before).max() > 1e-3


def test_takes_as_many_images_at_once_as_the_machine_likes(own_clip, images, monkeypatch):
    seen, image_batches = [], features.image_batches

    def note(sources, image_size, size):
        seen.append(size)
        return image_batches(sources, image_size, size)

    monkeypatch.setattr(features, "image_batches", note)
    model = tpr_jax.from_pretrained(own_clip, image_size=(32, 16))
    for at_once, size in ((3, 3), (9, 5)):
        monkeypatch.setattr(features, "images_at_once", lambda config, at_once=at_once: at_once)
        features.encode_images(model, images)
        assert seen.pop() == size


def test_introspect_images_normalizes_with_the_constants_of_the_folder(own_clip, images):
    """The class token's feature is the image feature."""
    model = tpr_jax.from_pretrained(set_image_constants(own_clip), image_size=(32, 16))
    ((pixels, activations),) = features.introspect_images(model, images)
    np.testing.assert_array_equal(pixels, images)
    np.testing.assert_allclose(
        l2_normalize(activations["tokens"][:, 0]), model.encode_images(images), atol=1e-5
    )


def test_introspect_images_returns_the_pixels_that_patches_cover(own_clip, images):
    """Patches of 8 cover the upper left 32 x 16 of 39 x 17 pixels."""
    model = tpr_jax.from_pretrained(own_clip, image_size=(39, 17))
    large = [np.pad(image, ((0, 7), (0, 1), (0, 0)), constant_values=9) for image in images]
    ((pixels, activations),) = features.introspect_images(model, large)
    np.testing.assert_array_equal(pixels, images)
    assert features.patch_grid(model, np.moveaxis(activations["tokens"], 2, 1)).shape[-2:] == (4, 2)
