"""The search over rounded vectors gives what scoring all in float64 gives, ties and filters included."""

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.search.query import exact


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
    names = exact.write_codes(vectors, folder, "codes-1")
    return vectors, exact.open_codes(folder, names)


@pytest.mark.parametrize("k", [1, 10, 300])
def test_as_scoring_all(made, k):
    vectors, rounded = made
    rng = np.random.default_rng(k)
    queries = [*unit(rng.standard_normal((3, vectors.shape[1]))), *vectors[[0, 777, 39_999]]]
    for query in queries:
        query = query.astype(np.float32)
        scores, rows = exact.exact_top_k(rounded, vectors, query, k)
        wanted_scores, wanted = plainly(vectors, query, k)
        assert rows.tolist() == wanted
        np.testing.assert_array_equal(scores, wanted_scores)


@pytest.mark.parametrize("share", [0.5, 0.01, 0.0001, 0.0])
def test_among_the_allowed_rows_only(made, share):
    vectors, rounded = made
    allowed = np.random.default_rng(1).random(len(vectors)) < share
    query = vectors[12].astype(np.float32)
    scores, rows = exact.exact_top_k(rounded, vectors, query, 20, allowed)
    wanted_scores, wanted = plainly(vectors, query, 20, allowed)
    assert rows.tolist() == wanted
    np.testing.assert_array_equal(scores, wanted_scores)


def test_more_than_there_are(made):
    vectors, rounded = made
    _, rows = exact.exact_top_k(rounded, vectors, vectors[0].astype(np.float32), 10**6)
    assert sorted(rows.tolist()) == list(range(len(vectors)))


def test_the_error_is_the_largest_there_is(made):
    """Of what the numbers stand for: steps from the middle between each column's least and greatest."""
    vectors, rounded = made
    given = vectors.astype(np.float64)
    middle = (given.min(axis=0) + given.max(axis=0)) / 2
    errors = np.linalg.norm(middle + rounded.step * rounded.numbers - given, axis=1)
    assert errors.max() == pytest.approx(rounded.error, rel=1e-6)
    assert np.linalg.norm(rounded.numbers.astype(np.float64), axis=1).max() == pytest.approx(rounded.longest)
    assert rounded.error < 0.02


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7, 130_001])
def test_products_are_whole_and_exact(count):
    """Whatever is left over of four rows at a time, or of a thread's share."""
    rng = np.random.default_rng(count)
    numbers = rng.integers(-127, 128, (count, 20), np.int8)
    query = rng.integers(-8192, 8193, 20, np.int32)
    found = exact._products(numbers, query)
    np.testing.assert_array_equal(found, numbers.astype(np.int64) @ query.astype(np.int64))


def test_products_of_the_largest_numbers_fit(tmp_path):
    """2,048 numbers, all at the end of their span, with a query that points at them."""
    signs = np.where(np.arange(2048) % 2, 1, -1) / np.sqrt(2048)
    vectors = np.stack([signs, -signs, 0 * signs]).astype(np.float16)
    rounded = exact.open_codes(tmp_path, exact.write_codes(vectors, tmp_path, "codes-1"))
    scores, rows = exact.exact_top_k(rounded, vectors, signs.astype(np.float32), 3)
    assert rows.tolist() == [0, 2, 1]
    np.testing.assert_allclose(scores, [1, 0, -1], atol=1e-3)


def test_without_numba_the_same(made, monkeypatch):
    vectors, rounded = made
    query = vectors[99].astype(np.float32)
    wanted = exact.exact_top_k(rounded, vectors, query, 50)
    monkeypatch.setattr(exact, "_multiply", exact._multiply_plain)
    for one, other in zip(exact.exact_top_k(rounded, vectors, query, 50), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("damage", ["gone", "cut", "another", "settings"])
def test_damaged_files_are_named(tmp_path, damage):
    names = exact.write_codes(gallery("plain", 100), tmp_path, "codes-1")
    if damage == "gone":
        (tmp_path / names[1]).unlink()
    elif damage == "cut":
        (tmp_path / names[1]).write_bytes((tmp_path / names[1]).read_bytes()[:-1])
    elif damage == "another":
        np.save(tmp_path / names[1], np.zeros((100, 3), np.int8))
    else:
        (tmp_path / names[0]).write_text("{}")
    with pytest.raises(UserError, match="codes-1.json: damaged .*; index the photos into a new folder"):
        exact.open_codes(tmp_path, names)


def test_rescoring_does_not_depend_on_the_company(made):
    vectors, _ = made
    query = vectors[3].astype(np.float32)
    together = exact.rescore(vectors, query, np.arange(5000))
    for row in (0, 17, 4999):
        assert exact.rescore(vectors, query, np.array([row]))[0] == together[row]
