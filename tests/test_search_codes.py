"""The search over rounded vectors gives what scoring all in float64 gives, ties and filters included."""

import numpy as np
import pytest

from tpr_jax.search import codes


def unit(feats):
    return feats / np.linalg.norm(feats, axis=1, keepdims=True)


def plainly(vectors, query, k, allowed=None):
    """By the definition: every score, sorted, ties by row."""
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    scores = scores.astype(np.float32)
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    order = sorted(rows.tolist(), key=lambda row: (-scores[row], row))[:k]
    return scores[order], order


def gallery(kind: str, count: int = 40_000, width: int = 32) -> np.ndarray:
    rng = np.random.default_rng(5)
    feats = rng.standard_normal((count, width))
    if kind == "offset":  # as CLIP's: a common direction, and one number far larger than the others
        feats = 0.2 * feats + rng.standard_normal(width)
        feats[:, 3] += 20
    if kind == "alike":  # thousands closer to each other than the rounding is
        feats[: count // 2] = feats[0] + 1e-4 * rng.standard_normal((count // 2, width))
    if kind == "copies":
        feats = feats[rng.integers(0, 50, count)]
    return unit(feats).astype(np.float16)


@pytest.fixture(scope="module", params=["plain", "offset", "alike", "copies"])
def made(request, tmp_path_factory):
    vectors = gallery(request.param)
    folder = tmp_path_factory.mktemp("codes")
    names = codes.write_codes(vectors, folder, "codes-1")
    return vectors, codes.open_codes(folder, names)


@pytest.mark.parametrize("k", [1, 10, 300])
def test_as_scoring_all(made, k):
    vectors, rounded = made
    rng = np.random.default_rng(k)
    queries = [*unit(rng.standard_normal((3, vectors.shape[1]))), *vectors[[0, 777, 39_999]]]
    for query in queries:
        query = query.astype(np.float32)
        scores, rows = codes.exact_top_k(rounded, vectors, query, k)
        wanted_scores, wanted = plainly(vectors, query, k)
        assert rows.tolist() == wanted
        np.testing.assert_array_equal(scores, wanted_scores)


@pytest.mark.parametrize("share", [0.5, 0.01, 0.0001, 0.0])
def test_among_the_allowed_rows_only(made, share):
    vectors, rounded = made
    allowed = np.random.default_rng(1).random(len(vectors)) < share
    query = vectors[12].astype(np.float32)
    scores, rows = codes.exact_top_k(rounded, vectors, query, 20, allowed)
    wanted_scores, wanted = plainly(vectors, query, 20, allowed)
    assert rows.tolist() == wanted
    np.testing.assert_array_equal(scores, wanted_scores)


def test_more_than_there_are(made):
    vectors, rounded = made
    _, rows = codes.exact_top_k(rounded, vectors, vectors[0].astype(np.float32), 10**6)
    assert sorted(rows.tolist()) == list(range(len(vectors)))


def test_the_error_is_the_largest_there_is(made):
    vectors, rounded = made
    decoded = np.concatenate([piece.reconstruct_n(0, piece.ntotal) for piece in rounded.pieces])
    errors = np.linalg.norm(decoded - vectors.astype(np.float32), axis=1)
    assert errors.max() == pytest.approx(rounded.error, rel=1e-3)
    assert rounded.error < 0.02


def test_rescoring_does_not_depend_on_the_company(made):
    vectors, _ = made
    query = vectors[3].astype(np.float32)
    together = codes.rescore(vectors, query, np.arange(5000))
    for row in (0, 17, 4999):
        assert codes.rescore(vectors, query, np.array([row]))[0] == together[row]
