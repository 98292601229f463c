"""Scores in blocks, and their metrics against those of the plain ranking."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metrics.rerank import plain
from tests.metrics.rerank.test_hubs import draw
from tpr_jax.errors import UserError
from tpr_jax.metrics import rerank, retrieval
from tpr_jax.metrics.rerank.scores import Scores, top_neighbors


@given(seed=st.integers(0, 2**31), q=st.integers(1, 9), g=st.integers(1, 9))
def test_cosines_have_the_plain_metrics(seed, q, g):
    query, gallery = draw(seed, q, g)
    rng = np.random.default_rng(seed)
    query_pids, gallery_pids = rng.integers(0, 3, q), rng.integers(0, 3, g)
    query_pids[0] = gallery_pids[0]
    got = rerank.score_metrics(rerank.cosines(query, gallery), query_pids, gallery_pids)
    assert got == pytest.approx(retrieval.retrieval_metrics(query, gallery, query_pids, gallery_pids)["t2i"])


def test_metrics_are_those_of_the_changed_scores():
    """The cosines rank the match last of three, the change first."""
    query, gallery = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    plain_scores = rerank.cosines(query, gallery)
    assert rerank.score_metrics(plain_scores, np.array([5]), np.array([5, 6, 7]))["R1"] == 0
    turned = Scores(plain_scores.query, plain_scores.gallery, lambda _, block: -block)
    assert rerank.score_metrics(turned, np.array([5]), np.array([5, 6, 7]))["R1"] == 100


def test_a_change_gets_the_rows_of_its_block(monkeypatch):
    query, gallery = draw(0, 7, 3)
    monkeypatch.setattr(retrieval, "BLOCK_BYTES", 8 * 3 * 2)
    scores = Scores(
        *retrieval.normalized(query, gallery), lambda rows, block: 0 * block + np.arange(7)[rows, None]
    )
    assert scores.dense()[:, 0].tolist() == list(range(7))


@given(seed=st.integers(0, 2**31), k=st.integers(0, 12), tied=st.booleans())
def test_top_neighbors_equal_a_sort(seed, k, tied):
    rng = np.random.default_rng(seed)
    gallery = np.eye(3)[rng.integers(0, 3, 9)] if tied else retrieval.normalized(*draw(seed, 9, 9))[0]
    cosine, index = top_neighbors(gallery[:4], gallery, k)
    for row, scores, feat in zip(index, cosine, gallery[:4], strict=True):
        want = plain.cosines([feat], gallery)[0]
        assert np.allclose(scores, [want[j] for j in row]) and len(set(row)) == min(k, 9)
        assert np.allclose(scores, sorted(want, reverse=True)[:k])


def test_rejects_pids_of_another_number():
    query, gallery = draw(0, 2, 3)
    with pytest.raises(UserError, match="2 query features but 1 query pids"):
        rerank.score_metrics(rerank.cosines(query, gallery), np.array([0]), np.array([0, 1, 2]))
    with pytest.raises(UserError, match="no query's pid occurs in the gallery"):
        rerank.score_metrics(rerank.cosines(query, gallery), np.array([5, 5]), np.array([0, 1, 2]))
