"""Query vectors by hand."""

import numpy as np
import pytest

from tpr_jax.search.query.combine import combine

NONE = np.zeros((0, 2), np.float32)
RIGHT, UP = np.float32([1, 0]), np.float32([0, 1])


@pytest.mark.parametrize(
    ("texts", "without", "photo", "weight", "expected"),
    [
        ([RIGHT], NONE, None, 0.1, [1, 0]),  # the weight only counts where there are both
        ([RIGHT, UP], NONE, None, 0.1, [0.5, 0.5]),
        ([RIGHT], NONE, UP, 0.75, [0.75, 0.25]),
        ([RIGHT, UP], NONE, UP, 0.5, [0.25, 0.75]),
        (NONE, NONE, UP, 0.75, [0, 1]),
        ([RIGHT], [UP], None, 0.5, [1, -0.3]),
        ([RIGHT], [UP, RIGHT], None, 0.5, [0.85, -0.15]),
        (NONE, [RIGHT], UP, 0.5, [-0.3, 1]),
    ],
)
def test_weighs_the_parts(texts, without, photo, weight, expected):
    vector = combine(np.array(texts), np.array(without), photo, weight)
    np.testing.assert_allclose(vector, expected, rtol=1e-6)
    assert vector.dtype == np.float32


@pytest.mark.parametrize(
    ("texts", "right", "wrong", "expected"),
    [
        ([RIGHT], [UP], None, [1, 1]),
        ([RIGHT], [UP, RIGHT], NONE, [1.5, 0.5]),
        ([RIGHT], NONE, [UP], [1, -0.2]),
        ([RIGHT], [UP], [UP, RIGHT], [0.9, 0.9]),
        (NONE, [RIGHT], [UP], [1, -0.2]),
    ],
)
def test_adds_photos_that_are_right_and_subtracts_wrong_ones(texts, right, wrong, expected):
    marked = {"right": right, "wrong": wrong}
    given = {name: None if value is None else np.array(value) for name, value in marked.items()}
    vector = combine(np.array(texts), NONE, None, **given)
    np.testing.assert_allclose(vector, expected, rtol=1e-6)
