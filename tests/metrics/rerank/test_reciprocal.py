"""k-reciprocal re-ranking against sets and dictionaries, and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metrics.rerank import plain
from tests.metrics.rerank.test_hubs import draw
from tpr_jax.metrics import rerank, retrieval


@given(
    seed=st.integers(0, 2**31),
    q=st.integers(1, 4),
    g=st.integers(1, 12),
    k1=st.integers(1, 8),
    k2=st.integers(1, 4),
    weight=st.floats(0, 1),
)
def test_equals_the_definition(seed, q, g, k1, k2, weight):
    query, gallery = draw(seed, q, g)
    k1, k2 = min(k1, g), min(k2, g)
    got = rerank.k_reciprocal(query, gallery, k1=k1, k2=k2, weight=weight).dense()
    want = np.array(plain.k_reciprocal(query, gallery, k1, k2, weight))
    # Without a weight the scores are the cosines themselves: 1 more, the same ranking.
    np.testing.assert_allclose(got, want + (weight == 0), atol=2e-6)


def test_by_hand():
    """Two pairs of equal images: k1 = 2 encodes each by its pair, with 1/2 each, and a text likewise."""
    gallery = np.array([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0]])
    got = rerank.k_reciprocal([[1.0, 0.5, 0]], gallery, k1=2, k2=1, weight=1.0).dense()
    np.testing.assert_allclose(got, [[0, 0, -1, -1]], atol=1e-6)
    # With k2 = 2 the text also counts the first image, whose encoding is the same.
    got = rerank.k_reciprocal([[1.0, 0.5, 0]], gallery, k1=2, k2=2, weight=0.5).dense()
    cosine = np.array([2, 2, 1, 1]) / np.sqrt(5)
    np.testing.assert_allclose(got[0], -0.5 * np.array([0, 0, 1, 1]) - 0.5 * (1 - cosine), atol=1e-6)


def test_all_equal_images():
    """Every image is its own nearest, whatever the ties."""
    gallery = np.ones((6, 3))
    got = rerank.k_reciprocal(np.ones((2, 3)), gallery, k1=3, k2=2, weight=0.5).dense()
    np.testing.assert_allclose(got, plain.k_reciprocal(np.ones((2, 3)), gallery, 3, 2, 0.5), atol=1e-6)


@pytest.mark.parametrize("off", [{"weight": 0.0}, {"k1": 0}])
def test_nothing_changes_without_weight_or_neighbors(off):
    query, gallery = draw(4, 3, 9)
    got = rerank.k_reciprocal(query, gallery, **off).dense()
    np.testing.assert_array_equal(got, rerank.cosines(query, gallery).dense())


def test_settings_larger_than_the_gallery():
    query, gallery = draw(5, 3, 4)
    got = rerank.k_reciprocal(query, gallery, k1=50, k2=20).dense()
    np.testing.assert_allclose(got, rerank.k_reciprocal(query, gallery, k1=4, k2=4).dense())


def test_blocks_and_other_queries_change_nothing(monkeypatch):
    query, gallery = draw(6, 9, 12)
    want = rerank.k_reciprocal(query, gallery, k1=5, k2=3).dense()
    monkeypatch.setattr(retrieval, "BLOCK_BYTES", 8 * 12 * 2)
    np.testing.assert_allclose(rerank.k_reciprocal(query, gallery, k1=5, k2=3).dense(), want, atol=1e-12)
    alone = [rerank.k_reciprocal(query[i : i + 1], gallery, k1=5, k2=3).dense()[0] for i in range(9)]
    np.testing.assert_allclose(alone, want, atol=1e-6)
