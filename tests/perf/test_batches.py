"""The number of images at once follows the size of the tower, and the machine."""

import dataclasses
import os

import jax
import pytest

from tpr_jax.models.config import NAMED, ClipConfig
from tpr_jax.perf.batches import images_at_once

MINI = ClipConfig(image_size=(192, 64), vision_width=256, vision_mlp=1024)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ClipConfig(), 8),  # 193 x 3072 x 4 bytes = 2.37 MB for each image; 8 of them are 19 of 20 MB
        (dataclasses.replace(ClipConfig(), vision_mlp=3300), 4),  # 2.55 MB: 8 would be 20.4 MB
        (NAMED["ViT-L/14"], 4),  # 257 x 4096 x 4 bytes = 4.2 MB
        (MINI, 32),  # 49 x 1024 x 4 bytes = 0.2 MB: never more than 32
        (ClipConfig(image_size=(2048, 2048)), 1),  # 201 MB: one image does not fit either
    ],
    ids=["ViT-B/16", "wider", "ViT-L/14", "mini", "huge"],
)
def test_the_hidden_layer_stays_in_the_cache(monkeypatch, config, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert images_at_once(config) == expected


@pytest.mark.parametrize(("cores", "expected"), [(None, 8), (2, 8), (8, 8), (16, 16), (31, 16), (96, 32)])
def test_there_is_an_image_for_each_core(monkeypatch, cores, expected):
    """But never more than 32 images."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert images_at_once(ClipConfig()) == expected


def test_accelerators_take_the_most(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert images_at_once(ClipConfig()) == 32
