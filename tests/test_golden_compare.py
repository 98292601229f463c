"""The comparisons of `test_golden.py` fail on NaN, on another shape, and on a transposed matrix."""

import math

import numpy as np
import pytest

from tests.golden_compare import assert_close, logits_per_image, numerical_gradient, relative_l2, worst


@pytest.mark.parametrize(("images", "texts"), [(4, 4), (3, 5)])
def test_logits_have_one_orientation(images, texts):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(images, 8)), rng.normal(size=(texts, 8))
    file, logits = {"out/image_embeds": a, "out/text_embeds": b}, 14.3 * np.einsum("ie,te->it", a, b)
    for stored in (logits, np.ascontiguousarray(logits.T).reshape(images, texts)):
        found = logits_per_image({**file, "out/logits_per_image": stored})
        np.testing.assert_allclose(found, logits)
    if images == texts:  # as a model that confuses rows and columns gives them
        assert relative_l2(logits.T, found) > 0.1
    with pytest.raises(ValueError, match="not enough values"):
        logits_per_image({**file, "out/logits_per_image": logits**2})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_fail_every_comparison(value):
    """Covers any position, either side, and any other errors."""
    good = np.arange(1.0, 7).reshape(2, 3)
    assert relative_l2(good, good) == 0
    for at in np.ndindex(good.shape):
        bad = good.copy()
        bad[at] = value
        for pair in ((bad, good), (good, bad), (bad, bad)):
            assert not relative_l2(*pair) < 1e30
            with pytest.raises(AssertionError):
                assert_close(*pair)
    for errors in ({"a": value, "b": 0.1}, {"a": 0.1, "b": value}, {"a": 0.1, "b": value, "c": 0.2}):
        if value != -np.inf:
            assert worst(errors)[0] == math.inf
    assert worst({"a": 0.1, "b": 0.3, "c": 0.2}) == (0.3, "b")


def test_rejects_different_shapes_and_empty_errors():
    for compare in (relative_l2, assert_close):
        with pytest.raises(AssertionError):
            compare(np.ones((3, 1)), np.ones((3, 3)))
    with pytest.raises(AssertionError):
        worst({})


def test_numerical_gradient_of_a_known_function():
    rows = np.array([[1.0, 2.0], [3.0, -4.0]])
    np.testing.assert_allclose(numerical_gradient(lambda x: (x**3).sum(), rows), 3 * rows**2, rtol=1e-8)
