"""The ranking benchmark, on a small split."""

import numpy as np

from tpr_jax.bench import ranking
from tpr_jax.data.datasets import DATASETS
from tpr_jax.metrics import retrieval as metrics


def test_ranks_the_split_and_times_it(monkeypatch):
    calls = []
    original = metrics.retrieval_metrics
    monkeypatch.setattr(metrics, "retrieval_metrics", lambda *a: calls.append(a) or original(*a))
    timing = ranking.time_ranking(300, 200, 16, 50, 2)
    for query, gallery, query_pids, gallery_pids in calls[1:]:  # the first call compiles
        assert query.shape == (300, 16) and gallery.shape == (200, 16)
        assert len(np.unique(query_pids)) == len(np.unique(gallery_pids)) == 50
    assert len(calls) == 3 and len(timing["all_seconds"]) == 2
    assert timing["seconds"] == min(timing["all_seconds"]) > 0 and timing["cpu_seconds"] > 0
    assert timing["peak_bytes"] > 20e6


def test_sizes_are_those_of_the_test_splits():
    names = {"CUHK-PEDES": "cuhk_pedes", "ICFG-PEDES": "icfg_pedes", "RSTPReid": "rstp_reid"}
    for name, size in ranking.SIZES.items():
        assert DATASETS[names[name]].counts["test"] == (size.identities, size.gallery, size.queries)
