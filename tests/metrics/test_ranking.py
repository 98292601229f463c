"""Ranks of the matches, in both directions, against a sort of the whole matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpr_jax.metrics import ranking


def sorted_ranks(scores, query_pids, gallery_pids):
    """Returns (t2i ranks by query and gallery index, i2t ranks by gallery and query index), by sorting."""
    forth = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1) + 1
    back = np.argsort(np.argsort(-scores.T, axis=1, kind="stable"), axis=1) + 1
    matching = query_pids[:, None] == gallery_pids[None]
    return forth[matching], back[matching.T]


def whole_numbers(rng, n, e, copies):
    """Makes features with exact products; with `copies`, few distinct rows and zeros of both signs."""
    feats = rng.integers(-3, 4, (n, e)).astype(np.float32)
    feats = feats[rng.integers(0, max(1, n // 3), n)] if copies else feats
    return np.where((feats == 0) & (rng.random((n, e)) < 0.5), np.float32(-0.0), feats)


def counted(query, gallery, query_pids, gallery_pids, **settings):
    pairs = ranking.find_pairs(query_pids, gallery_pids)
    return ranking.pair_ranks(query, gallery, query_pids, gallery_pids, pairs, **settings)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    q=st.integers(1, 60),
    g=st.integers(1, 60),
    width=st.sampled_from([1, 2, 8]),
    copies=st.tuples(st.booleans(), st.booleans()),
    identities=st.integers(1, 40),
    tile=st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
def test_equals_the_sort(seed, q, g, width, copies, identities, tile):
    rng = np.random.default_rng(seed)
    query, gallery = whole_numbers(rng, q, width, copies[0]), whole_numbers(rng, g, width, copies[1])
    query_pids, gallery_pids = rng.integers(0, identities, q), rng.integers(0, identities, g)
    got = counted(query, gallery, query_pids, gallery_pids, tile=tile)
    for ours, wanted in zip(got, sorted_ranks(query @ gallery.T, query_pids, gallery_pids), strict=True):
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_sort_over_many_tiles(dtype):
    """Uses more tiles than cores, sizes that are not divisible, and features without near ties."""
    rng = np.random.default_rng(1)
    query, gallery = rng.normal(size=(1301, 24)).astype(dtype), rng.normal(size=(907, 24)).astype(dtype)
    query_pids, gallery_pids = rng.integers(0, 150, 1301), rng.integers(20, 170, 907)
    got = counted(query, gallery, query_pids, gallery_pids, tile=(96, 130))
    exact = sorted_ranks(query.astype(float) @ gallery.T.astype(float), query_pids, gallery_pids)
    for ours, wanted in zip(got, exact, strict=True):
        assert np.mean(ours != wanted) < (1e-3 if dtype == np.float32 else 1e-9)
        assert np.abs(ours - wanted).max() <= 1


@pytest.mark.parametrize("seed", [0, 1])
def test_almost_equal_features_rank_by_chance(seed):
    """Scores differ by less than their rounding errors, so all must be rounded in the same way.

    Summed one by one, they would all be larger (seed 0) or smaller (seed 1) than those of a matrix product.
    """
    rng = np.random.default_rng(seed)
    one = rng.normal(size=512).astype(np.float32) / np.float32(512**0.5)
    feats = np.where(rng.random((2000, 512)) < 0.02, np.nextafter(one, np.float32(2)), one)
    pids = np.repeat(np.arange(500), 2)
    for ranks in counted(feats[:1000], feats[1000:], pids, rng.permutation(pids)):
        assert 250 < np.mean(ranks) < 750
        assert np.mean(ranks <= 50) < 0.25


def test_pairs_by_hand():
    pairs = ranking.find_pairs(np.array([5, 7, 5, 9]), np.array([7, 5, 8, 5]))
    assert pairs.query.tolist() == [0, 0, 1, 2, 2] and pairs.gallery.tolist() == [1, 3, 0, 1, 3]
    assert pairs.query_start.tolist() == [0, 2, 3, 5, 5]
    assert pairs.gallery[pairs.by_gallery].tolist() == [0, 1, 1, 3, 3]
    assert pairs.query[pairs.by_gallery].tolist() == [1, 0, 2, 0, 2]
    assert pairs.gallery_start.tolist() == [0, 1, 3, 3, 5]
    assert ranking.count_pairs(np.array([5, 7, 5, 9]), np.array([7, 5, 8, 5])) == 5


@pytest.mark.parametrize("collide", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distinct_rows(dtype, collide, monkeypatch):
    """Rows are numbered by their first copy, even if all rows have the same hash."""
    if collide:
        monkeypatch.setattr(ranking, "_hash_rows", lambda words: np.zeros(len(words), np.uint64))
    feats = np.array([[1, 0], [2, 5], [1, -0.0], [0, 1], [2, 5], [1, 0]], dtype)
    distinct, copies = ranking.distinct_rows(feats)
    assert distinct.tolist() == [[1, 0], [2, 5], [0, 1]] and copies.tolist() == [0, 1, 0, 2, 1, 0]
    distinct, copies = ranking.distinct_rows(feats[[3, 0, 1]])
    assert distinct.tolist() == [[0, 1], [1, 0], [2, 5]] and copies.tolist() == [0, 1, 2]
