"""Prompts in the towers: their positions, their visibility and their maps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_clip as tiny
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.models import clip
from tpr_jax.models.clip import declare
from tpr_jax.models.methods import prompts, zero_shot
from tpr_jax.models.petl.prompts import insert_slots

CONFIG = dataclasses.replace(tiny.CONFIG, vision_layers=2)
DIRECTIONS = ("both", "to_vision", "to_text", "none")


@functools.cache
def gradients(direction):
    """Returns the gradients of the squared image and text features in the prompt variables."""
    model = clip.build(CONFIG, prompts(1, direction=direction))
    variables = tiny.random_like(declare(CONFIG, prompts(1, direction=direction)), seed=0)
    batch, rest = tiny.batch(2), {"params": jax.tree.map(jnp.asarray, variables["params"])}

    def squared(prompt):
        rows = (("encode_image", "image"), ("encode_text", "ids"))
        return [(model[f]({**rest, "prompt": prompt}, batch[k])[0] ** 2).sum() for f, k in rows]

    return jax.jit(jax.jacrev(squared))(variables["prompt"])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_prompts_reach_the_other_tower_through_their_maps_only(direction):
    of_image, of_text = (gradient["prompts"] for gradient in gradients(direction))
    for own, other, name, mapped in (
        (of_image, of_text, "visual", direction in ("both", "to_text")),
        (of_text, of_image, "text", direction in ("both", "to_vision")),
    ):
        for layer in range(2):  # the tokens of every block have an effect
            assert np.abs(own[name][layer]).max() > 1e-6
            assert (np.abs(other[name][layer]).max() > 1e-6) == mapped


def encoders(config, method):
    """Returns {"encode_image", "encode_text"} without routing statistics, compiled once for all calls."""
    model = clip.build(config, method)
    names = ("encode_image", "encode_text")
    return {name: jax.jit(lambda v, rows, f=model[name]: f(v, rows)[0]) for name in names}


def with_prompts(depth):
    """Returns the encoders with prompts in the first `depth` blocks, and random variables."""
    method = prompts(1, depth)
    return encoders(CONFIG, method), tiny.random_like(declare(CONFIG, method), seed=0)


def test_prompts_are_replaced_before_each_of_the_first_blocks():
    """With depth 1 the second block sees the first block's outputs for the prompts, not the prompts again."""
    shallow, variables = with_prompts(1)
    deep, _ = with_prompts(2)
    batch = tiny.batch(2)
    one = variables["prompt"]["prompts"]
    twice = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), one)
    for name, key in (("encode_image", "image"), ("encode_text", "ids")):
        kept = shallow[name](variables, batch[key])
        exchanged = deep[name]({**variables, "prompt": {"prompts": twice}}, batch[key])
        assert np.abs(kept - exchanged).max() > 1e-3


def test_words_beyond_the_context_are_ignored():
    """With two prompt tokens and a context of 7, a text of 7 ids loses the two before its last."""
    model, variables = with_prompts(2)
    ids = np.array([[0, 3, 4, 5, 6, 7, 12]], np.int32)
    feats = model["encode_text"](variables, ids)
    for place, counts in ((1, True), (3, True), (4, False), (5, False)):
        changed = ids.copy()
        changed[0, place] = 9
        difference = np.abs(model["encode_text"](variables, changed) - feats).max()
        assert (difference > 1e-4) == counts, place


def test_prompts_equal_to_the_tokens_they_replace_give_clip():
    """Prompts equal to the embeddings of a longer text's ids give CLIP's own feature of that text."""
    config = dataclasses.replace(CONFIG, vision_layers=1, text_layers=1)
    method = prompts(2, direction="none")
    variables = tiny.random_like(declare(config, method), seed=0)
    embedding = variables["params"]["text"]["token_embedding"]
    variables["prompt"]["prompts"]["text"] = embedding[[8, 9]][None]
    short = np.array([[0, 3, 4, 12, 0]], np.int32)
    longer, _ = insert_slots(short, 2, 7, np.array([3]))
    longer = np.asarray(longer).copy()
    longer[0, 1:3] = [8, 9]
    plain = encoders(config, zero_shot())["encode_text"]({"params": variables["params"]}, longer)
    found = encoders(config, method)["encode_text"](variables, short)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
