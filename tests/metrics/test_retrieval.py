"""Metrics against a plain sorting version, values worked by hand, and the golden bundle."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tpr_jax.errors import UserError
from tpr_jax.metrics import retrieval

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.safetensors"


def naive(query, gallery, query_pids, gallery_pids):
    """Computes one direction by definition: sorts the gallery and goes through the list."""
    recalls, precisions, penalties = [], [], []
    for feat, pid in zip(query, query_pids, strict=True):
        score = [float(_cosine(feat, other)) for other in gallery]
        ranking = sorted(range(len(gallery)), key=lambda j: (-score[j], j))
        right = [gallery_pids[j] == pid for j in ranking]
        if not any(right):
            continue
        recalls.append([any(right[:k]) for k in (1, 5, 10)])
        at = [i + 1 for i, r in enumerate(right) if r]
        precisions.append(sum((n + 1) / rank for n, rank in enumerate(at)) / len(at))
        penalties.append(len(at) / at[-1])
    means = [*np.mean(recalls, axis=0), np.mean(precisions), np.mean(penalties)]
    return dict(zip(("R1", "R5", "R10", "mAP", "mINP"), 100 * np.array(means), strict=True))


def _cosine(a, b):
    length = np.sqrt(np.sum(a * a) * np.sum(b * b))
    return np.sum(a * b) / length if length > 0 else 0.0


def axis_rows(rng, n, e):
    """Makes rows along one axis whose length is a power of two: every cosine is exactly -1, 0 or 1."""
    rows = np.zeros((n, e), np.float32)
    rows[np.arange(n), rng.integers(0, e, n)] = rng.choice([-4.0, -1.0, 0.0, 0.5, 2.0], n)
    return rows


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    q=st.integers(1, 12),
    g=st.integers(1, 30),
    tied=st.booleans(),
    counted=st.booleans(),
)
def test_equals_the_sorting_version(seed, q, g, tied, counted):
    rng = np.random.default_rng(seed)
    make = axis_rows if tied else lambda rng, n, e: rng.normal(size=(n, e))
    query, gallery = make(rng, q, 3), make(rng, g, 3)
    query_pids, gallery_pids = rng.integers(0, 6, q), rng.integers(0, 6, g)
    query_pids[0] = gallery_pids[0]  # at least one match; others may have none
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "BLOCK_BYTES", 8 * g * 5)  # several blocks, the last one ragged
        patch.setattr(retrieval, "SORT_ABOVE", 128 if counted else 0)
        got = retrieval.retrieval_metrics(query, gallery, query_pids, gallery_pids)
        counts = retrieval.rank_metrics(query, gallery, query_pids, gallery_pids)
    assert set(got["t2i"]) == set(got["i2t"]) == {"R1", "R5", "R10", "mAP", "mINP"}
    for name, want in naive(query, gallery, query_pids, gallery_pids).items():
        assert got["t2i"][name] == pytest.approx(want, abs=1e-9), name
    for name, want in naive(gallery, query, gallery_pids, query_pids).items():
        assert got["i2t"][name] == pytest.approx(want, abs=1e-9), name
    assert counts["num_queries"] == q
    assert counts["num_without_match"] == np.sum(~np.isin(query_pids, gallery_pids))


def test_by_hand():
    """Scores fall with the index; pid 1 sits at ranks 1, 2 and 6, so AP = (1 + 1 + 3/6) / 3, INP = 3/6."""
    angles = np.linspace(0, 1, 6)
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * 7
    got = retrieval.rank_metrics(np.array([[2.0, 0.0]]), gallery, [1], [1, 1, 0, 0, 0, 1])
    assert got["R1"] == got["R5"] == got["R10"] == 100
    assert got["mAP"] == pytest.approx(100 * 2.5 / 3)
    assert got["mINP"] == pytest.approx(50)


def test_golden():
    bundle = load_file(GOLDEN)
    args = [bundle[f"in/{k}"] for k in ("query_feats", "gallery_feats", "query_pids", "gallery_pids")]
    got = retrieval.retrieval_metrics(*args)
    for way in ("t2i", "i2t"):
        np.testing.assert_allclose(list(got[way].values()), bundle[f"out/{way}"], rtol=0, atol=1e-4)
    q, g, query_pids, gallery_pids = args
    for way, ask in (("t2i", args), ("i2t", (g, q, gallery_pids, query_pids))):
        counts = retrieval.rank_metrics(*ask)
        assert counts["num_queries"] - counts["num_without_match"] == bundle[f"out/{way}_queries_scored"]


@pytest.mark.parametrize("size", [17, 1001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies_tie_by_index(dtype, size):
    """Copies of one image are ranked by index, however the matrix product rounds."""
    rng = np.random.default_rng(0)
    gallery = np.repeat(rng.normal(size=(1, 67)), size, axis=0).astype(dtype)
    gallery[::7] = rng.normal(size=gallery[::7].shape)
    for queries in (1, 5, 33):
        _, index = retrieval.top_k(rng.normal(size=(queries, 67)).astype(dtype), gallery, size)
        for row in index:
            places = np.flatnonzero(row % 7 != 0)
            assert np.all(np.diff(row[places]) > 0)
            assert np.ptp(places) == len(places) - 1


def test_zero_features_are_last_of_the_similar_and_never_nan():
    query = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
    gallery = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], np.float32)
    scores, index = retrieval.top_k(query, gallery, 3)
    np.testing.assert_array_equal(index, [[0, 1, 2], [2, 1, 0]])
    np.testing.assert_array_equal(scores, [[0, 0, 0], [1, 0, -1]])
    got = retrieval.retrieval_metrics(query, gallery, [1, 2], [0, 1, 2])
    assert got["t2i"]["R1"] == 50 and np.isfinite(list(got["i2t"].values())).all()


def test_extreme_lengths_keep_their_direction():
    feats = np.array([[1e30, 1e30], [1e-30, 0.0], [3.0, -4.0]], np.float32)
    np.testing.assert_allclose(
        retrieval.l2_normalize(feats), [[0.5**0.5, 0.5**0.5], [1, 0], [0.6, -0.8]], rtol=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), g=st.integers(1, 40), k=st.integers(1, 45), tied=st.booleans())
def test_top_k_is_the_head_of_the_stable_sort(seed, g, k, tied):
    rng = np.random.default_rng(seed)
    make = axis_rows if tied else lambda rng, n, e: rng.normal(size=(n, e))
    query, gallery = make(rng, 4, 3), make(rng, g, 3)
    scores, index = retrieval.top_k(query, gallery, k)
    assert scores.shape == index.shape == (4, min(k, g))
    for feat, row_scores, row_index in zip(query, scores, index, strict=True):
        exact = [float(_cosine(feat.astype(float), other.astype(float))) for other in gallery]
        ranking = sorted(range(g), key=lambda j: (-exact[j], j))
        np.testing.assert_array_equal(row_index, ranking[: min(k, g)])
        np.testing.assert_allclose(row_scores, np.array(exact)[row_index], atol=1e-6)


def test_bfloat16_and_float16_features_are_scored_in_float32():
    import ml_dtypes

    query = np.array([[3.0, 4.0]], ml_dtypes.bfloat16)
    scores, _ = retrieval.top_k(query, np.array([[4.0, 3.0]], np.float16), 1)
    assert scores.dtype == np.float32
    assert scores[0, 0] == pytest.approx(0.96, abs=1e-6)


def test_without_numba_the_metrics_are_the_same(monkeypatch):
    rng = np.random.default_rng(5)
    args = axis_rows(rng, 40, 4), axis_rows(rng, 60, 4), rng.integers(0, 9, 40), rng.integers(0, 9, 60)
    counted = retrieval.retrieval_metrics(*args)
    monkeypatch.setattr(retrieval.ranking, "numba", None)
    sorted_ = retrieval.retrieval_metrics(*args)
    for way in ("t2i", "i2t"):
        assert counted[way] == pytest.approx(sorted_[way], abs=1e-9)


def test_pids_keep_all_their_bits():
    """2**62 and 2**62 + 1 are equal in float64."""
    feats = np.eye(3, dtype=np.float32)
    pids = np.array([2**62, 2**62 + 1, -(2**63)])
    got = retrieval.retrieval_metrics(feats, feats[[1, 0, 2]], pids, pids)
    assert got["t2i"]["R1"] == got["i2t"]["R1"] == pytest.approx(100 / 3)  # only the third is at 1
    assert retrieval.rank_metrics(feats, feats, pids, pids)["mINP"] == 100
    with pytest.raises(UserError, match="query pids are uint64: give whole numbers within int64"):
        retrieval.retrieval_metrics(feats, feats, pids.astype(np.uint64), pids)
    with pytest.raises(UserError, match="gallery pids are float64"):
        retrieval.rank_metrics(feats, feats, pids, pids.astype(float))


def test_wrong_input_is_named():
    ones = np.ones((2, 3), np.float32)
    with pytest.raises(UserError, match="no query's pid"):
        retrieval.rank_metrics(ones, ones, [1, 2], [3, 4])
    with pytest.raises(UserError, match="2 query features but 3 query pids"):
        retrieval.rank_metrics(ones, ones, [1, 2, 3], [3, 4])
    with pytest.raises(UserError, match="3 wide and gallery features 4"):
        retrieval.top_k(ones, np.ones((2, 4)), 1)
    with pytest.raises(UserError, match="gallery features are not finite in 1 row, first 1:"):
        retrieval.top_k(ones, np.array([[1, 2, 3], [1, np.nan, 3]]), 1)
    with pytest.raises(UserError, match="there are no query features"):
        retrieval.retrieval_metrics(ones[:0], ones, [], [1, 2])
    with pytest.raises(UserError, match="there are no gallery features"):
        retrieval.top_k(ones, ones[:0], 1)
    with pytest.raises(UserError, match="gallery features are not finite"):
        retrieval.retrieval_metrics(ones, ones * np.inf, [1, 2], [1, 2])
    with pytest.raises(UserError, match="top_k=0"):
        retrieval.top_k(ones, ones, 0)
