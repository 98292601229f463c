"""The search over 8-bit codes equals scoring all vectors in float64, including ties and filters."""

import json
import math

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.search.query import exact


def unit(feats):
    return feats / np.linalg.norm(feats, axis=1, keepdims=True)


def brute_force(vectors, query, k, allowed=None):
    """Scores every row and sorts, ties by row."""
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    scores = scores.astype(np.float32)
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    order = sorted(rows.tolist(), key=lambda row: (-scores[row], row))[:k]
    return scores[order], order


def gallery(kind: str, count: int = 40_000, width: int = 32) -> np.ndarray:
    rng = np.random.default_rng(5)
    feats = rng.standard_normal((count, width))
    if kind == "offset":  # like CLIP's: a common direction, and one component far larger than the others
        feats = 0.2 * feats + rng.standard_normal(width)
        feats[:, 3] += 20
    if kind == "alike":  # thousands that differ by less than the rounding
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
def test_equals_scoring_all_vectors(made, k):
    vectors, codes = made
    rng = np.random.default_rng(k)
    queries = [*unit(rng.standard_normal((3, vectors.shape[1]))), *vectors[[0, 777, 39_999]]]
    for query in queries:
        query = query.astype(np.float32)
        scores, rows = exact.exact_top_k(codes, vectors, query, k)
        wanted_scores, wanted = brute_force(vectors, query, k)
        assert rows.tolist() == wanted
        np.testing.assert_array_equal(scores, wanted_scores)


@pytest.mark.parametrize("share", [0.5, 0.01, 0.0001, 0.0])
def test_only_allowed_rows(made, share):
    vectors, codes = made
    allowed = np.random.default_rng(1).random(len(vectors)) < share
    query = vectors[12].astype(np.float32)
    scores, rows = exact.exact_top_k(codes, vectors, query, 20, allowed)
    wanted_scores, wanted = brute_force(vectors, query, 20, allowed)
    assert rows.tolist() == wanted
    np.testing.assert_array_equal(scores, wanted_scores)


def test_k_larger_than_the_gallery(made):
    vectors, codes = made
    _, rows = exact.exact_top_k(codes, vectors, vectors[0].astype(np.float32), 10**6)
    assert sorted(rows.tolist()) == list(range(len(vectors)))


def test_the_error_bound_is_tight(made):
    """Codes count steps from the middle between the minimum and maximum of each component."""
    vectors, codes = made
    given = vectors.astype(np.float64)
    middle = (given.min(axis=0) + given.max(axis=0)) / 2
    errors = np.linalg.norm(middle + codes.step * codes.numbers - given, axis=1)
    assert errors.max() == pytest.approx(codes.error, rel=1e-6)
    assert np.linalg.norm(codes.numbers.astype(np.float64), axis=1).max() == pytest.approx(codes.longest)
    assert codes.error < 0.02


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7, 130_001])
def test_products_are_exact_for_any_count(count):
    """For any remainder of four rows at a time, and of the rows of a thread."""
    rng = np.random.default_rng(count)
    numbers = rng.integers(-127, 128, (count, 20), np.int8)
    query = rng.integers(-8192, 8193, 20, np.int32)
    found = exact._products(numbers, query)
    np.testing.assert_array_equal(found, numbers.astype(np.int64) @ query.astype(np.int64))


def test_the_largest_products_do_not_overflow(tmp_path):
    """2,048 components, all at the end of their range, and a query in the same direction."""
    signs = np.where(np.arange(2048) % 2, 1, -1) / np.sqrt(2048)
    vectors = np.stack([signs, -signs, 0 * signs]).astype(np.float16)
    codes = exact.open_codes(tmp_path, exact.write_codes(vectors, tmp_path, "codes-1"))
    scores, rows = exact.exact_top_k(codes, vectors, signs.astype(np.float32), 3)
    assert rows.tolist() == [0, 2, 1]
    np.testing.assert_allclose(scores, [1, 0, -1], atol=1e-3)


def test_numpy_gives_the_same_result_as_numba(made, monkeypatch):
    vectors, codes = made
    query = vectors[99].astype(np.float32)
    wanted = exact.exact_top_k(codes, vectors, query, 50)
    monkeypatch.setattr(exact, "_multiply", exact._multiply_numpy)
    for one, other in zip(exact.exact_top_k(codes, vectors, query, 50), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("damage", ["gone", "cut", "another", "settings", "type", "nan"])
def test_names_a_damaged_file(tmp_path, damage):
    names = exact.write_codes(gallery("plain", 100), tmp_path, "codes-1")
    if damage == "gone":
        (tmp_path / names[1]).unlink()
    elif damage == "cut":
        (tmp_path / names[1]).write_bytes((tmp_path / names[1]).read_bytes()[:-1])
    elif damage == "another":
        np.save(tmp_path / names[1], np.zeros((100, 3), np.int8))
    elif damage == "settings":
        (tmp_path / names[0]).write_text("{}")
    else:
        settings = json.loads((tmp_path / names[0]).read_text())
        (tmp_path / names[0]).write_text(
            json.dumps(settings | {"error": {"type": None, "nan": math.nan}[damage]})
        )
    with pytest.raises(UserError, match=r"codes-1\.json: damaged .*; index the photos into a new folder"):
        exact.open_codes(tmp_path, names)


def test_rescoring_does_not_depend_on_other_rows(made):
    vectors, _ = made
    query = vectors[3].astype(np.float32)
    together = exact.rescore(vectors, query, np.arange(5000))
    for row in (0, 17, 4999):
        assert exact.rescore(vectors, query, np.array([row]))[0] == together[row]
