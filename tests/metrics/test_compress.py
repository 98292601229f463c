"""Cut and quantized vectors by hand."""

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.metrics import compress


def test_cut_by_hand():
    found = compress.cut(np.array([[3.0, 4.0, 100.0], [0.0, -2.0, 1.0]], np.float32), 2)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, -1.0]], atol=1e-7)


def test_quantize_by_hand():
    """The largest number becomes 127 and sets the scale; the others are rounded to the nearest."""
    feats = np.array([[1.27, 0.014, -0.016], [0.0, 0.0, 0.0], [0.5, -1.0, 0.25]], np.float32)
    found = compress.quantize(feats)
    assert found.codes.dtype == np.int8 and found.bytes_per_vector == 3 + 4
    np.testing.assert_array_equal(found.codes, [[127, 1, -2], [0, 0, 0], [64, -127, 32]])
    np.testing.assert_allclose(found.scales[:, 0], [0.01, 0.0, 1 / 127], rtol=1e-6)
    np.testing.assert_allclose(compress.dequantize(found)[0], [1.27, 0.01, -0.02], rtol=1e-6)


def test_rounding_errors_are_at_most_half_a_step():
    feats = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    vectors = compress.quantize(feats)
    error = np.abs(compress.dequantize(vectors) - feats).max(axis=1)
    step = np.abs(feats).max(axis=1) / 127
    assert (error <= 0.5001 * step).all() and (error > 0.3 * step).all()


def test_sizes_of_a_flag():
    assert compress.parse_sizes("64, 256,128,64") == [256, 128, 64]
    for text, word in (
        ("", "names no size"),
        (",", "names no size"),
        ("64,a", "--vectors 'a'"),
        ("-1", "-1"),
    ):
        with pytest.raises(UserError, match=word):
            compress.parse_sizes(text)
    for text in ("0", "1.5", "٣", "6 4"):
        with pytest.raises(UserError, match="whole numbers above 0"):
            compress.parse_sizes(text)
