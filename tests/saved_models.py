"""A tiny backbone in a folder, and models with random adapters on it."""

import dataclasses

import numpy as np

from tests.tiny_clip import CONFIG, batch, random_like
from tpr_jax.model import make_model
from tpr_jax.models import clip
from tpr_jax.models.methods import Method
from tpr_jax.optim import split_collections
from tpr_jax.utils.trees import merge
from tpr_jax.weights import backbone
from tpr_jax.weights.clip import load_clip, save_clip

SQUARE = dataclasses.replace(CONFIG, image_size=(12, 12))  # the grid of pre-training
TALL = (12, 4)  # restored exactly from Hugging Face's square grid, unlike 12 x 8


def write_backbone(folder, seed: int = 0, config=SQUARE):
    """Writes a CLIP with random weights in Hugging Face's format and returns the folder."""
    shapes = clip.declare(config, Method("zero_shot"))["params"]
    save_clip(folder, config, random_like(shapes, seed))
    return folder


def trained(folder, method: Method, image_size=TALL, seed: int = 1, **settings):
    """Returns a model on the backbone in `folder` with random trainable weights."""
    config, params = load_clip(folder, image_size)
    shapes = clip.declare(config, method)
    drawn, _ = split_collections(random_like(shapes, seed), method.trainable, method.tuned)
    variables = merge({"params": params}, drawn)
    return make_model(config, method, variables, **{"backbone": backbone.find(folder), **settings})


def features(model):
    """Computes the features of three random images and texts."""
    pixels = np.random.default_rng(2).normal(size=(3, *model.config.image_size, 3)).astype(np.float32)
    return model.features_from_arrays(pixels, batch(3)["ids"])


def assert_close(found, wanted, tolerance: float = 1e-5):
    for a, b in zip(features(found), features(wanted), strict=True):
        assert np.linalg.norm(a - b) / np.linalg.norm(b) < tolerance
