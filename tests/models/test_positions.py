"""Where the text tower reads the feature of a text."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tests import tiny_clip as tiny
from tpr_jax.models.positions import end_positions, mark_words, read_positions


def test_end_positions():
    ids = jnp.array([[1, 5, 12, 0, 0], [1, 12, 12, 3, 9], [12, 9, 9, 3, 9]])
    np.testing.assert_array_equal(end_positions(ids, None), [2, 1, 0])
    np.testing.assert_array_equal(end_positions(ids, 9), [0, 4, 1])  # 0: it does not occur
    np.testing.assert_array_equal(end_positions(ids, 3), [0, 3, 3])


def test_a_tower_that_is_not_causal_reads_the_last_position():
    ids = np.array([[7, 9, 3, 0], [9, 5, 2, 0]])
    causal = dataclasses.replace(tiny.CONFIG, eot_id=9)
    np.testing.assert_array_equal(read_positions(ids, causal), [1, 0])
    np.testing.assert_array_equal(read_positions(ids, dataclasses.replace(causal, family="siglip")), [3, 3])


def test_words_are_neither_start_nor_end_nor_padding():
    ids = jnp.array([[7, 4, 3, 9, 0], [7, 9, 0, 0, 0], [7, 1, 2, 3, 9]])
    causal = dataclasses.replace(tiny.CONFIG, eot_id=9)
    expected = [[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 0]]
    np.testing.assert_array_equal(mark_words(ids, causal), np.array(expected, bool))


def test_words_of_a_tower_without_start_and_end_of_text():
    ids = jnp.array([[4, 3, 1, 1], [5, 6, 7, 8]])
    siglip = dataclasses.replace(tiny.CONFIG, family="siglip")
    np.testing.assert_array_equal(mark_words(ids, siglip), np.array([[1, 1, 0, 0], [1, 1, 1, 0]], bool))
