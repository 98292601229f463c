"""Inverted lists reach the recall that they report, on clustered vectors and on MiniPEDES."""

import numpy as np
import pytest

import tpr_jax
from tpr_jax.data.mini_pedes import bundled_dir
from tpr_jax.data.records import caption_pairs, load_records
from tpr_jax.search.query.approximate import RECALL, build_lists, lists_top_k, open_lists, sentences


def exactly(vectors, query, k):
    scores = vectors.astype(np.float64) @ query
    rows = np.lexsort((np.arange(len(vectors)), -scores))[:k]
    return scores[rows], rows


def recall(lists, vectors, queries, allowed=None):
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    shares = []
    for query in queries:
        wanted = set(rows[exactly(vectors[rows], query, 10)[1]].tolist())
        found = set(lists_top_k(lists, vectors, query, 10, allowed)[1].tolist())
        shares.append(len(wanted & found) / len(wanted))
    return np.mean(shares)


@pytest.fixture(scope="module")
def clusters():
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((300, 32))
    vectors = centers[rng.integers(0, 300, 20_000)] + 0.5 * rng.standard_normal((20_000, 32))
    queries = vectors[:200] + 0.5 * rng.standard_normal((200, 32))
    vectors, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors, queries))
    return vectors.astype(np.float16), queries.astype(np.float32)


def test_recall_on_clusters(clusters, tmp_path):
    vectors, queries = clusters
    made = build_lists(vectors, queries[:100], lambda q, k: exactly(vectors, q, k), tmp_path / "lists.faiss")
    lists = open_lists(tmp_path / "lists.faiss")
    assert lists.nprobe == made["probes"] < made["lists"] / 4  # it scans only some lists
    assert made["recall"] >= RECALL == 0.99 and made["queries"] == 100
    assert recall(lists, vectors, queries[:100]) == pytest.approx(made["recall"])
    assert recall(lists, vectors, queries[100:]) > 0.97  # queries that it was not measured with
    allowed = np.random.default_rng(1).random(len(vectors)) < 0.5
    assert recall(lists, vectors, queries[:100], allowed) > 0.95
    scores, rows = lists_top_k(lists, vectors, queries[0], 10)
    np.testing.assert_allclose(scores, vectors[rows].astype(np.float64) @ queries[0], atol=1e-6)
    assert (np.diff(scores) <= 0).all()


def test_sentences_are_many_and_distinct():
    assert len(set(sentences())) == len(sentences()) >= 150


@pytest.mark.slow
def test_recall_on_mini_pedes(tmp_path):
    """Queries 1,000 photos of the test split with captions, which the lists were not measured with."""
    model = tpr_jax.from_pretrained("clip-mini")
    records = load_records(bundled_dir(), "test")
    vectors = model.encode_images(records.image_paths).astype(np.float16)
    queries = model.encode_texts(sentences())
    made = build_lists(vectors, queries, lambda q, k: exactly(vectors, q, k), tmp_path / "lists.faiss")
    captions = caption_pairs(records)[1][::5]
    assert made["probes"] < made["lists"]
    assert recall(open_lists(tmp_path / "lists.faiss"), vectors, model.encode_texts(captions)) >= 0.99
