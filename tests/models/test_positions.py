"""Where the text tower reads the feature of a text."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tests import tiny_clip as tiny
from tpr_jax.models.positions import end_positions, read_positions


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
