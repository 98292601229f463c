"""Prompt tokens: the maps between the towers, and slots in a text, worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from tpr_jax.models.clip import end_positions
from tpr_jax.models.petl import prompts


def leaves(seed=0, k=2, n=3, v=4, w=5):
    rng = np.random.default_rng(seed)
    return {
        "visual": rng.normal(size=(k, n, v)),
        "text": rng.normal(size=(k, n, w)),
        "to_visual": {"kernel": rng.normal(size=(k, w, v)), "bias": rng.normal(size=(k, v))},
        "to_text": {"kernel": rng.normal(size=(k, v, w)), "bias": rng.normal(size=(k, w))},
    }


def test_map_tokens_uses_each_layers_own_map():
    own = leaves()
    found = prompts.map_tokens(own["text"], own["to_visual"])
    assert found.shape == (2, 3, 4)
    for i in range(2):
        expected = own["text"][i] @ own["to_visual"]["kernel"][i] + own["to_visual"]["bias"][i]
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("maps", [("to_visual", "to_text"), ("to_visual",), ("to_text",), ()], ids=str)
def test_order_of_own_and_mapped_tokens(maps):
    """Vision: `[map(text), visual]`; text: `[text, map(visual)]`; without a map only the tower's own."""
    own = leaves()
    given = {name: leaf for name, leaf in own.items() if name in (*maps, "visual", "text")}
    vision, text = prompts.prompt_tokens(given)
    from_text = [prompts.map_tokens(own["text"], own["to_visual"])] if "to_visual" in maps else []
    from_vision = [prompts.map_tokens(own["visual"], own["to_text"])] if "to_text" in maps else []
    expected = [*from_text, own["visual"]], [own["text"], *from_vision]
    for found, parts in zip((vision, text), expected, strict=True):
        np.testing.assert_allclose(found, np.concatenate(parts, axis=1), rtol=1e-5, atol=1e-6)


# 40 starts a text, 41 ends it, 0 pads it.
TEXTS = [
    [40, 1, 41, 0, 0, 0, 0],  # short
    [40, 1, 2, 3, 41, 0, 0],  # fits exactly
    [40, 1, 2, 3, 4, 41, 0],  # its end would be pushed off
    [40, 1, 2, 3, 4, 5, 41],  # of the maximum length
]
ROOM = [
    [40, 0, 0, 1, 41, 0, 0],
    [40, 0, 0, 1, 2, 3, 41],
    [40, 0, 0, 1, 2, 3, 41],
    [40, 0, 0, 1, 2, 3, 41],
]


@pytest.mark.parametrize("eot_id", [None, 41])
def test_insert_slots_after_start_of_text(eot_id):
    ids = jnp.array(TEXTS)
    found, end = prompts.insert_slots(ids, 2, 7, end_positions(ids, eot_id))
    np.testing.assert_array_equal(found, ROOM)
    np.testing.assert_array_equal(end, [4, 6, 6, 6])


def test_insert_slots_extends_shorter_texts_up_to_the_context():
    """Batches are trimmed to the longest caption, here 5 tokens of a context of 7."""
    ids = jnp.array([[40, 1, 41, 0, 0], [40, 1, 2, 3, 41]])
    found, end = prompts.insert_slots(ids, 1, 7, end_positions(ids, None))
    np.testing.assert_array_equal(found, [[40, 0, 1, 41, 0, 0], [40, 0, 1, 2, 3, 41]])
    np.testing.assert_array_equal(end, [3, 5])
    found, end = prompts.insert_slots(ids, 3, 7, end_positions(ids, None))
    np.testing.assert_array_equal(found, [[40, 0, 0, 0, 1, 41, 0], [40, 0, 0, 0, 1, 2, 41]])
    np.testing.assert_array_equal(end, [5, 6])


def test_replace_tokens():
    x = jnp.zeros((2, 5, 3))
    tokens = jnp.array([[1.0, 2, 3], [4, 5, 6]])
    found = np.asarray(prompts.replace_tokens(x, tokens, 1))
    for row in found:
        np.testing.assert_array_equal(row[1:3], tokens)
        assert not row[[0, 3, 4]].any()
    at_end = prompts.replace_tokens(x, tokens, 3)
    np.testing.assert_array_equal(at_end[1, 3:], tokens)
    assert at_end.shape == x.shape and not at_end[:, :3].any()
