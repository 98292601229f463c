"""Query expansion and the fused gallery against plain loops, by hand, and in blocks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.metrics.rerank import plain
from tests.metrics.rerank.test_hubs import SIZES, draw
from tpr_jax.metrics import rerank, retrieval
from tpr_jax.metrics.rerank import neighbors


@given(seed=st.integers(0, 2**31), q=SIZES, g=SIZES, k=st.integers(0, 10), alpha=st.sampled_from([0, 1, 2.5]))
def test_expanded_queries_equal_the_definition(seed, q, g, k, alpha):
    query, gallery = draw(seed, q, g)
    got = rerank.expand_queries(query, gallery, k=k, alpha=alpha).dense()
    np.testing.assert_allclose(got, plain.expanded_queries(query, gallery, k, alpha), atol=1e-9)


@given(seed=st.integers(0, 2**31), q=SIZES, g=SIZES, k=st.integers(0, 10), weight=st.floats(0, 3))
def test_fused_gallery_equals_the_definition(seed, q, g, k, weight):
    query, gallery = draw(seed, q, g)
    got = rerank.fuse_neighbors(query, gallery, k=k, weight=weight).dense()
    np.testing.assert_allclose(got, plain.fused_neighbors(query, gallery, k, weight), atol=1e-9)


def test_by_hand():
    """The query along x: its best image is at 60 degrees, which has the weight cos 60 = 1/2."""
    gallery = np.array([[1, np.sqrt(3)], [-1.0, 0.1]])
    got = rerank.expand_queries([[5.0, 0.0]], gallery, k=1, alpha=1).query
    want = np.array([1 + 0.25, np.sqrt(3) / 4])
    np.testing.assert_allclose(got[0], want / np.linalg.norm(want))
    # With the first power 0 both have the weight 1: the average direction, 30 degrees.
    got = rerank.expand_queries([[5.0, 0.0]], gallery, k=1, alpha=0).query
    np.testing.assert_allclose(got[0], [np.sqrt(3) / 2, 0.5])
    # Two images at right angles, each moved halfway to the other; the third keeps to its nearest.
    fused = rerank.fuse_neighbors([[1.0, 0.0]], np.eye(2), k=1, weight=1.0).gallery
    np.testing.assert_allclose(fused, np.full((2, 2), np.sqrt(0.5)))


def test_copies_count_as_neighbors_and_an_image_never_as_its_own():
    gallery = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    fused = rerank.fuse_neighbors([[1.0, 0.0]], gallery, k=2, weight=1.0).gallery
    np.testing.assert_allclose(fused[:3], gallery[:3])
    np.testing.assert_allclose(fused[3], np.full(2, np.sqrt(0.5)))
    # With one neighbor, the last copy's two nearest are the other copies.
    fused = rerank.fuse_neighbors([[1.0, 0.0]], gallery, k=1, weight=1.0).gallery
    np.testing.assert_allclose(fused[:3], gallery[:3])


def test_nothing_changes_without_neighbors_or_weight():
    query, gallery = draw(1, 5, 6)
    want = rerank.cosines(query, gallery).dense()
    for got in (
        rerank.expand_queries(query, gallery, k=0),
        rerank.fuse_neighbors(query, gallery, k=0),
        rerank.fuse_neighbors(query, gallery, k=3, weight=0.0),
    ):
        np.testing.assert_allclose(got.dense(), want, atol=1e-12)


def test_blocks_give_the_dense_scores(monkeypatch):
    query, gallery = draw(2, 11, 7)
    wanted = [f(query, gallery).dense() for f in (rerank.expand_queries, rerank.fuse_neighbors)]
    monkeypatch.setattr(retrieval, "BLOCK_BYTES", 8 * 7 * 2)
    monkeypatch.setattr(neighbors, "ROWS", 3)
    for function, want in zip((rerank.expand_queries, rerank.fuse_neighbors), wanted, strict=True):
        np.testing.assert_allclose(function(query, gallery).dense(), want, atol=1e-12)
