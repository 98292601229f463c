"""Figures of a mixture of experts: loads counted by hand, top experts, colors."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from tests.tiny_clip import CONFIG, batch, quick_compilation, random_like  # noqa: F401
from tpr_jax.model import make_model
from tpr_jax.models.clip import declare
from tpr_jax.models.methods import lora_moe
from tpr_jax.models.petl_config import Prompts
from tpr_jax.visualize import draw, experts, experts_draw
from tpr_jax.visualize.features import introspect_images, patch_grid


def model_of(method, seed=0):
    return make_model(CONFIG, method, random_like(declare(CONFIG, method), seed))


def test_top_two_experts():
    weights = np.array([[0.0, 0.3, 0.7], [1.0, 0.0, 0.0], [0.2, 0.5, 0.3]])
    first, second, by_first, by_second = experts_draw.top_two(weights)
    assert first.tolist() == [2, 0, 1] and by_first.tolist() == [0.7, 1.0, 0.5]
    assert second[[0, 2]].tolist() == [1, 2] and by_second.tolist() == [0.3, 0.0, 0.3]
    assert experts_draw.top_two(np.ones((2, 1)))[3].tolist() == [0, 0]


def test_expert_loads_count_every_choice_of_unmasked_tokens():
    weights = np.array([[[0.6, 0.4, 0.0], [0.0, 0.5, 0.5], [0.9, 0.0, 0.1]]])
    activations = {"experts": {"text/block_1/beside_mlp": weights, "text/block_0/beside_mlp": weights}}
    batches = [(np.zeros((1, 3), np.int32), activations)] * 2
    found = experts.expert_loads(batches, lambda rows, n: np.array([[True, True, False]]))
    assert list(found) == [("text", "beside_mlp")] and list(found["text", "beside_mlp"]) == [0, 1]
    np.testing.assert_allclose(found["text", "beside_mlp"][0], [1 / 4, 2 / 4, 1 / 4])


@pytest.mark.parametrize("prompts", [None, Prompts(1, 1, "none")])
def test_tokens_count_up_to_the_end_of_text(prompts):
    method = lora_moe(("q", "fc"), 2, 3, 1)
    model = model_of(dataclasses.replace(method, prompts=prompts))
    ids = batch(4)["ids"]
    counted = experts.text_token_mask(model)(ids, CONFIG.context_length)
    ends = np.minimum([list(row).index(CONFIG.vocab_size - 1) + (prompts is not None) for row in ids], 6)
    assert counted.sum(1).tolist() == (ends + 1).tolist() and counted[:, 0].all()


def test_groups_mixtures_by_slot():
    model = model_of(lora_moe(("q", "fc"), 2, 3, 1))
    ((_, found),) = introspect_images(model, list(batch(2)["image"]))
    slots = experts.group_by_slot(found["experts"])
    assert sorted(slots) == [("visual", "lora_fc"), ("visual", "lora_q")]
    assert all(value.shape == (2, 7, 3) for blocks in slots.values() for value in blocks.values())


def test_patch_grid_matches_the_image():
    model = model_of(lora_moe(("q",), 2, 3, 1))
    assert patch_grid(model, np.arange(7.0)).tolist() == [[1, 2], [3, 4], [5, 6]]
    colors = np.zeros((3, 2, 3))
    colors[2, 0] = (1, 0, 0)
    tinted = draw.tint_patches(np.zeros((12, 8, 3), np.uint8), colors, strength=1.0)
    red = tinted[..., 0] == 1
    assert red[8:, :4].all() and red.sum() == 16


def test_patches_have_the_color_of_their_expert():
    """Counts pixels of each color: five patches of expert 1, and the lower left one of expert 3."""
    weights = np.zeros((3, 3, 2))
    weights[0] = 1
    weights[:, 2, 0] = (0, 0, 1)
    png = experts_draw.draw_image(np.full((36, 24, 3), 255, np.uint8), {4: weights})
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    of = [
        np.abs(pixels - np.round(255 * (0.38 + 0.62 * np.array(color)))).max(-1) <= 1
        for color in draw.palette(3)
    ]
    assert of[0].sum() / of[2].sum() == pytest.approx(5, rel=0.1) and of[1].sum() == 0
    rows, columns = (where.nonzero() for where in (of[0] | of[2], of[2]))
    assert columns[0].min() > np.median(rows[0]) and columns[1].max() < rows[1].mean() + 1


def test_cells_are_divided_by_weight():
    png = experts_draw.draw_text("a b", ["a", "b"], {0: np.array([[0.75, 0.25, 0.0], [0.75, 0.25, 0.0]])})
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    height = pixels.shape[0]
    upper = pixels[: int(0.8 * height)]  # the legend has the same colors
    counts = [(np.abs(upper - np.round(255 * np.array(c))).max(-1) <= 1).sum() for c in draw.palette(3)]
    assert counts[0] / counts[1] == pytest.approx(3, rel=0.15) and counts[2] == 0


def test_as_many_colors_as_experts():
    for count in (1, 6, 8, 9, 40):
        assert len({tuple(np.round(color, 3)) for color in draw.palette(count)}) == count
