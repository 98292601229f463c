"""The table of published results."""

import pytest

from tests.conftest import ROOT
from tpr_jax.data.datasets import BENCHMARKS
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.reproduce import published


def test_every_method_has_a_row_for_every_benchmark_and_a_config():
    keys = [(row.method, row.dataset) for row in published.PUBLISHED]
    methods = [method for method in published.METHODS if method not in published.OWN]
    assert len(keys) == len(set(keys)) == len(methods) * len(published.DATASETS)
    assert set(published.DATASETS) <= set(BENCHMARKS) and len(published.DATASETS) == 3
    for method in published.METHODS:
        assert (ROOT / "configs" / f"{method}.py").is_file()


def test_nothing_is_published_of_our_own_recipe():
    assert published.OWN == ("tpr_peft",)
    assert all(published.find("tpr_peft", dataset) is None for dataset in published.DATASETS)


@pytest.mark.parametrize(
    ("method", "dataset", "scores"),
    [
        ("dm_adapter", "cuhk_pedes", {"R1": 72.17, "R5": 88.74, "R10": 92.85, "mAP": 64.33}),
        ("up_person", "icfg_pedes", {"R1": 65.02}),
        ("zero_shot", "rstp_reid", {"R1": 13.45, "mAP": 10.31}),
        ("irra", "cuhk_pedes", {"R1": 73.38, "R5": 89.93, "R10": 93.71, "mAP": 66.13}),
    ],
)
def test_finds_a_row_and_leaves_out_what_is_not_published(method, dataset, scores):
    assert published.find(method, dataset).scores == scores


def test_scores_are_percents_that_rise_with_the_rank():
    for row in published.PUBLISHED:
        assert set(row.scores) <= set(METRIC_KEYS) and all(0 < value < 100 for value in row.scores.values())
        ranks = [row.scores[key] for key in ("R1", "R5", "R10") if key in row.scores]
        assert ranks == sorted(ranks) and row.scores.get("mAP", 0) < row.r1
