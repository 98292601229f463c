"""The benchmark of the metrics: that it measures what it says, on a small size."""

import numpy as np

from tpr_jax.bench import ranking


def test_it_ranks_both_ways_and_measures(monkeypatch):
    ranked = []
    from tpr_jax.metrics import retrieval as metrics

    original = metrics.retrieval_metrics
    monkeypatch.setattr(metrics, "retrieval_metrics", lambda *a: ranked.append(a) or original(*a))
    got = ranking.ranking(300, 200, 16, 50, 2)
    for query, gallery, query_pids, gallery_pids in ranked[1:]:  # the first one warms up
        assert query.shape == (300, 16) and gallery.shape == (200, 16)
        assert len(np.unique(query_pids)) == len(np.unique(gallery_pids)) == 50
    assert len(ranked) == 3 and len(got["all_seconds"]) == 2
    assert got["seconds"] == min(got["all_seconds"]) > 0 and got["cpu_seconds"] > 0
    assert got["peak_bytes"] > 20e6


def test_the_sizes_are_those_of_the_test_splits():
    from tpr_jax.data.datasets import DATASETS

    names = {"CUHK-PEDES": "cuhk_pedes", "ICFG-PEDES": "icfg_pedes", "RSTPReid": "rstp_reid"}
    for name, (queries, gallery, identities) in ranking.SIZES.items():
        assert DATASETS[names[name]].counts["test"] == (identities, gallery, queries)
