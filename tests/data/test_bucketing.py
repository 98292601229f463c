"""Texts with trimmed padding have the same features, with every method and in the same order."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tpr_jax
from tpr_jax.data.bucketing import LENGTHS, trim_padding
from tpr_jax.model import make_model
from tpr_jax.models import clip, methods


@pytest.mark.parametrize(
    "ends, length",
    [([0], 24), ([23], 24), ([3, 24], 40), ([39], 40), ([40], 64), ([5, 63, 2], 64), ([], 24)],
)
def test_trims_to_the_first_length_that_fits(ends, length):
    ids = np.arange(len(ends) * 64, dtype=np.int32).reshape(-1, 64)
    np.testing.assert_array_equal(trim_padding(ids, np.array(ends, int)), ids[:, :length])


@given(st.integers(1, 100), st.data())
def test_trimming_keeps_all_tokens(context, data):
    ends = np.array(data.draw(st.lists(st.integers(0, context - 1), min_size=1, max_size=5)))
    short = trim_padding(np.zeros((len(ends), context), np.int32), ends)
    assert ends.max() < short.shape[1] <= context
    assert short.shape[1] in (*LENGTHS, context)


@pytest.fixture(scope="module")
def plain():
    return tpr_jax.from_pretrained("clip-mini")


WORDS = ["a", "tall", "woman", "with", "brown", "hair", "walks", "in", "red", "shoes", "and", "two", "bags"]
TEXTS = [" ".join((WORDS * 6)[:count]) for count in (75, 1, 21, 22, 37, 3, 38, 12, 30, 2)]


METHODS = {
    "zero_shot": methods.zero_shot(),
    "dm_adapter": methods.dm_adapter(),
    "up_person": methods.up_person(),
    "cskt": methods.cskt(),
    "lora": methods.lora(),
}


@pytest.mark.parametrize(
    "name, batch_size", [("zero_shot", 1), ("zero_shot", 64), *((name, 4) for name in METHODS)]
)
def test_trimming_does_not_change_features(plain, name, batch_size):
    method = METHODS[name]
    functions = clip.build(plain.config, method)
    shapes = clip.declare(plain.config, method)
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    variables = drawn | {"params": plain.variables["params"]}
    model = make_model(plain.config, method, variables, tokenizer=plain.tokenizer)
    ids = plain.tokenizer(TEXTS)
    assert {ids.argmax(1).max(), ids.argmax(1).min()} == {63, 2}  # cut to the context; one word
    wanted = np.asarray(jax.jit(functions["encode_text"])(model.variables, ids)[0])
    found = model.encode_texts(TEXTS, batch_size)
    unit = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found, unit, atol=2e-6)
    assert np.abs(unit[0] - unit[1:]).max(axis=1).min() > 1e-3  # another order would show
