"""The corrections for hubs against plain loops, values by hand, and settings that change nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metrics.rerank import plain
from tpr_jax.errors import UserError
from tpr_jax.metrics import rerank, retrieval

SIZES = st.integers(1, 9)


def draw(seed, *sizes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, 4)) for n in sizes]


@given(seed=st.integers(0, 2**31), q=SIZES, g=SIZES, b=SIZES, k=st.integers(0, 10), alpha=st.floats(0, 2))
def test_nnn_equals_its_definition(seed, q, g, b, k, alpha):
    query, gallery, bank = draw(seed, q, g, b)
    got = rerank.nearest_neighbor_normalization(query, gallery, bank, k=k, alpha=alpha).dense()
    np.testing.assert_allclose(got, plain.nnn(query, gallery, bank, k, alpha), atol=1e-12)


def test_nnn_by_hand():
    """Images along x and y; the bank has cosines 1 and 0.6 with the first, 0 and 0.8 with the second."""
    query, gallery, bank = [[1, 1]], np.eye(2), [[2, 0], [3, 4]]
    half = np.sqrt(0.5)
    one = rerank.nearest_neighbor_normalization(query, gallery, bank, k=1, alpha=0.5).dense()
    np.testing.assert_allclose(one, [[half - 0.5, half - 0.4]])
    two = rerank.nearest_neighbor_normalization(query, gallery, bank, k=2, alpha=1.0).dense()
    np.testing.assert_allclose(two, [[half - 0.8, half - 0.4]])


@given(seed=st.integers(0, 2**31), q=SIZES, g=SIZES, b=SIZES, temperature=st.floats(0.02, 2))
def test_softmaxes_equal_their_definitions(seed, q, g, b, temperature):
    query, gallery, bank = draw(seed, q, g, b)
    got = np.exp(rerank.inverted_softmax(query, gallery, bank, temperature=temperature).dense() / temperature)
    want = np.array(plain.inverted_softmax(query, gallery, bank, temperature))
    np.testing.assert_allclose(got / b, want, rtol=1e-9)
    for others in (bank, None):
        got = rerank.dual_softmax(query, gallery, others, temperature=temperature).dense()
        np.testing.assert_allclose(
            got, plain.dual_softmax(query, gallery, others, temperature), rtol=1e-9, atol=1e-14
        )


@given(seed=st.integers(0, 2**31), q=SIZES, g=SIZES, b=st.integers(1, 3), temperature=st.floats(0.02, 2))
def test_qb_norm_ranks_as_defined(seed, q, g, b, temperature):
    query, gallery, bank = draw(seed, q, g, b)
    got = rerank.qb_norm(query, gallery, bank, temperature=temperature).dense()
    for row, want in zip(got, plain.qb_norm(query, gallery, bank, temperature), strict=True):
        assert plain.best(row.tolist(), g) == plain.best(want, g)


def test_qb_norm_by_hand():
    """The bank's best image is the first: the query closest to it is corrected, the other is not."""
    query, gallery, bank = np.array([[1.0, 0.9], [0.1, 1.0]]), np.eye(2), np.array([[1.0, 0.2]])
    plain_scores = rerank.cosines(query, gallery).dense()
    got = rerank.qb_norm(query, gallery, bank, temperature=0.1).dense()
    to_bank = bank @ gallery.T / np.linalg.norm(bank)
    np.testing.assert_allclose(got[0], plain_scores[0] - to_bank[0])
    np.testing.assert_array_equal(got[1], plain_scores[1])
    assert np.argmax(plain_scores[0]) == 0 and np.argmax(got[0]) == 1


def test_a_small_temperature_neither_overflows_nor_loses_the_scores():
    query, gallery, bank = (x.astype(np.float32) for x in draw(0, 5, 6, 7))
    for scores in (
        rerank.inverted_softmax(query, gallery, bank, temperature=1e-4),
        rerank.qb_norm(query, gallery, bank, temperature=1e-4),
        rerank.dual_softmax(query, gallery, bank, temperature=1e-4),
        rerank.dual_softmax(query, gallery, temperature=1e-4),
    ):
        assert np.isfinite(scores.dense()).all()
    # As T falls to 0, T log of the mean becomes the largest cosine of the bank.
    largest = np.max(plain.cosines(bank, gallery), axis=0)
    got = rerank.inverted_softmax(query, gallery, bank, temperature=1e-4).dense()
    np.testing.assert_allclose(got, plain.cosines(query, gallery) - largest, atol=1e-3)


def test_nothing_changes_without_a_weight():
    query, gallery, bank = draw(1, 5, 6, 7)
    want = rerank.cosines(query, gallery).dense()
    for off in ({"k": 0}, {"alpha": 0.0}):
        got = rerank.nearest_neighbor_normalization(query, gallery, bank, **off).dense()
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "name", ["nearest_neighbor_normalization", "inverted_softmax", "qb_norm", "dual_softmax"]
)
def test_blocks_give_the_dense_scores(name, monkeypatch):
    query, gallery, bank = draw(2, 11, 7, 13)
    want = getattr(rerank, name)(query, gallery, bank).dense()
    monkeypatch.setattr(retrieval, "BLOCK_BYTES", 8 * 7 * 2)
    got = getattr(rerank, name)(query, gallery, bank)
    assert max(len(block) for _, block in got.blocks()) == 2
    np.testing.assert_allclose(got.dense(), want, atol=1e-12)


def test_queries_do_not_see_each_other_with_a_bank():
    query, gallery, bank = draw(3, 5, 6, 7)
    for name in ("nearest_neighbor_normalization", "inverted_softmax", "qb_norm", "dual_softmax"):
        together = getattr(rerank, name)(query, gallery, bank).dense()
        alone = [getattr(rerank, name)(query[i : i + 1], gallery, bank).dense()[0] for i in range(5)]
        np.testing.assert_allclose(together, alone, atol=1e-12)
    joint = rerank.dual_softmax(query, gallery).dense()
    assert not np.allclose(joint[0], rerank.dual_softmax(query[:1], gallery).dense()[0])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_rejects_a_temperature_of_0(temperature):
    query, gallery, bank = draw(3, 5, 6, 7)
    with pytest.raises(UserError, match=f"temperature={temperature}: must be above 0"):
        rerank.qb_norm(query, gallery, bank, temperature=temperature)


def test_rejects_a_bank_of_another_width():
    query, gallery, _ = draw(3, 5, 6, 7)
    with pytest.raises(UserError, match="features are 3 wide"):
        rerank.qb_norm(query, gallery, np.ones((2, 3)))
