"""The benchmarks' models have the sizes and settings that were asked for."""

from dataclasses import replace

import numpy as np
import pytest

from tpr_jax.bench import models
from tpr_jax.bench.__main__ import BACKBONES
from tpr_jax.models.config import NAMED


def test_config_overrides_reach_the_method():
    model = models.build_model("dm_adapter", "clip_mini", "float32", 4, **{"method.num_experts": 3})
    assert model.method.vision[0].num_experts == 3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_have_their_own_sizes_at_the_image_size_of_the_recipe(backbone):
    found = models.build_model("dm_adapter", backbone, "float32", 8).clip_config
    assert found == replace(NAMED[backbone], image_size=(384, 128))


def test_a_random_batch_has_full_texts_and_two_rows_of_each_identity():
    config = replace(NAMED["ViT-B/16"], image_size=(32, 16), context_length=5, vocab_size=50)
    batch = models.random_batch(config, 4)
    assert batch["image"].shape == (4, 32, 16, 3)
    assert batch["ids"].shape == (4, 5) and (batch["ids"] > 0).all() and (batch["ids"][:, -1] == 49).all()
    np.testing.assert_array_equal(batch["pid"], [0, 0, 1, 1])


def test_a_random_batch_has_several_captions_and_some_of_the_patches():
    config = replace(NAMED["ViT-B/16"], image_size=(64, 32), context_length=5, vocab_size=50)
    batch = models.random_batch(config, 4, captions=3, kept_patches=6)
    assert batch["ids"].shape == (4, 3, 5) and (batch["ids"][..., -1] == 49).all()
    assert batch["patches"].shape == (4, 6) and batch["patches"].max() < 4 * 2
    assert (np.diff(batch["patches"], axis=1) > 0).all() and len(np.unique(batch["patches"], axis=0)) > 1
    assert "patches" not in models.random_batch(config, 4, kept_patches=8)
