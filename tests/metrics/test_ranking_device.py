"""Ranking on devices against the sort of the whole matrix: on one, and on eight forced CPU devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import forced_devices
from tests.metrics.test_ranking import sorted_ranks, whole_numbers
from tpr_jax.metrics import ranking, ranking_device, retrieval

ROOT = Path(__file__).parents[2]
CASES = [  # queries, gallery, width, copies of queries and of photos, identities, rows
    (61, 45, 8, (False, False), 20, 4),
    (45, 61, 8, (True, True), 9, 4),
]

SCRIPT = """
import json, sys
import jax
import numpy as np
from tests.metrics.test_ranking_device import CASES, case, ranked
from tpr_jax import metrics
from tpr_jax.train import evaluate
from tpr_jax.metrics import ranking_device
from tpr_jax.distributed.sharding import make_mesh

used = []
original = ranking_device.pair_ranks
found = {"devices": len(jax.devices())}
found["ranks"] = [[r.tolist() for r in ranked(case(*c), c[-1])] for c in CASES]
found["mesh"] = [[r.tolist() for r in ranked(case(*c), c[-1], mesh=make_mesh(4, 2))] for c in CASES[:1]]
product = ranking_device._product(*[
    jax.device_put(np.ones((16, 4), np.float32), jax.NamedSharding(make_mesh(), jax.P(axis)))
    for axis in ("data", None)
])
found["rows"] = [list(s.data.shape) for s in product.addressable_shards]
ranking_device.pair_ranks = lambda *a, **k: used.append(1) or original(*a, **k)
rng = np.random.default_rng(3)
names = ("query_feats", "gallery_feats", "query_pids", "gallery_pids")
split = dict(zip(names, (rng.normal(size=(300, 16)), rng.normal(size=(200, 16)),
    rng.integers(0, 40, 300), rng.integers(0, 40, 200))))
found["score"], found["used"] = evaluate.score(evaluate.EncodedSplit(
    split["query_feats"], split["query_pids"], [], split["gallery_feats"], split["gallery_pids"], [], []
)), len(used)
found["wanted"] = metrics.retrieval_metrics(*split.values())
print(json.dumps(found))
"""


def case(q, g, width, copies, identities, rows):
    rng = np.random.default_rng(q)
    query, gallery = whole_numbers(rng, q, width, copies[0]), whole_numbers(rng, g, width, copies[1])
    return query, gallery, rng.integers(0, identities, q), rng.integers(0, identities, g)


def ranked(args, rows, **settings):
    pairs = ranking.find_pairs(*args[2:])
    return ranking_device.pair_ranks(*args, pairs, rows=rows, **settings)


def wanted(args):
    return sorted_ranks(args[0] @ args[1].T, *args[2:])


@pytest.mark.parametrize("which", range(len(CASES)))
def test_one_device_equals_the_sort(which):
    args = case(*CASES[which])
    for ours, exact in zip(ranked(args, CASES[which][-1]), wanted(args), strict=True):
        np.testing.assert_array_equal(ours, exact)


def test_metrics_of_features_that_are_not_exact():
    rng = np.random.default_rng(0)
    query, gallery = (rng.normal(size=(n, 32)).astype(np.float32) for n in (500, 300))
    args = query, gallery, rng.integers(0, 60, 500), rng.integers(0, 60, 300)
    on_device = retrieval.retrieval_metrics(*args, pair_ranks=ranking_device.pair_ranks)
    for way, values in retrieval.retrieval_metrics(*args).items():
        assert on_device[way] == pytest.approx(values, abs=1e-4)


@pytest.fixture(scope="module")
def eight():
    env = forced_devices(8) | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_eight_devices_equal_the_sort(eight):
    assert eight["devices"] == 8
    assert eight["rows"] == [[2, 16]] * 8  # each device has its rows of the product
    for which, both in [*enumerate(eight["ranks"]), *enumerate(eight["mesh"])]:
        for ours, exact in zip(both, wanted(case(*CASES[which])), strict=True):
            np.testing.assert_array_equal(ours, exact)


def test_evaluation_ranks_on_several_devices(eight):
    assert eight["used"] == 1
    for way, values in eight["wanted"].items():
        assert eight["score"][way] == pytest.approx(values, abs=1e-4)
