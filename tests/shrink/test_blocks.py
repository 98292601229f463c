"""The kept blocks, against a model whose other blocks do nothing."""

import jax
import numpy as np
import pytest

from tests import tiny_clip as tiny
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.errors import UserError
from tpr_jax.model import make_model
from tpr_jax.models import clip, methods
from tpr_jax.shrink import blocks


def drawn(method, layers=(4, 3)):
    """Returns a model of random weights with this many blocks."""
    import dataclasses

    config = dataclasses.replace(tiny.CONFIG, vision_layers=layers[0], text_layers=layers[1])
    shapes = clip.declare(config, method)
    return make_model(config, method, tiny.random_like(shapes, seed=0), source="drawn")


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [
        (12, 6, [0, 2, 4, 7, 9, 11]),
        (6, 3, [0, 2, 5]),
        (4, 2, [0, 3]),
        (4, 4, [0, 1, 2, 3]),
        (4, 1, [3]),
        (1, 1, [0]),
    ],
)
def test_blocks_are_evenly_spaced(layers, count, expected):
    assert blocks.spaced(layers, count) == expected


def test_features_are_those_without_the_other_blocks():
    """Blocks whose outputs are zero pass the sequence on: the same features as a model without them."""
    model = drawn(methods.zero_shot())
    silent = jax.tree.map(np.copy, model.variables)
    for tower, dropped in (("visual", (1, 2)), ("text", (1,))):
        for i in dropped:
            for layer in (("attn", "out"), ("mlp", "proj")):
                leaf = silent["params"][tower][f"block_{i}"]
                for name in layer:
                    leaf = leaf[name]
                for key in leaf:
                    leaf[key][...] = 0
    student = blocks.keep_blocks(model, 2, 2)
    assert (student.config.vision_layers, student.config.text_layers) == (2, 2)
    batch = tiny.batch(3, config=model.config)
    pixels = model.normalize(batch["image"]) if batch["image"].dtype == np.uint8 else batch["image"]
    for encode, rows in zip(range(2), (pixels, batch["ids"]), strict=True):
        expected = make_model(model.config, model.method, silent).encoders[encode](silent, rows)
        found = student.encoders[encode](student.inference_variables, rows)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_lora_is_merged_first():
    model = drawn(methods.lora(rank=2))
    student = blocks.keep_blocks(model, 4, 3)
    assert student.method.name == "zero_shot"
    batch = tiny.batch(2, config=model.config)
    expected = model.encoders[1](model.inference_variables, batch["ids"])
    found = student.encoders[1](student.inference_variables, batch["ids"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0, 1), "--vision_blocks 0: must lie between 1 and the 4 blocks of drawn"),
        ((5, 1), "--vision_blocks 5"),
        ((1, 4), "--text_blocks 4: must lie between 1 and the 3 blocks"),
    ],
)
def test_a_number_of_blocks_that_the_model_lacks(numbers, words):
    with pytest.raises(UserError, match=words):
        blocks.keep_blocks(drawn(methods.zero_shot()), *numbers)


def test_parts_that_cannot_be_merged():
    with pytest.raises(UserError, match="drawn: has adapter that cannot be merged"):
        blocks.keep_blocks(drawn(methods.parallel_adapter(reduction=4)), 2, 2)
