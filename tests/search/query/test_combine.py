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
