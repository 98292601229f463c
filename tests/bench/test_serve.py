"""The load: what it counts, and that it meets a real server."""

import pytest

from tests import served
from tpr_jax.bench import serve as bench_serve
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server.guard import Limits


def test_percentiles_of_what_was_seen():
    one = {"searches": [i / 1000 for i in range(1, 101)], "photos": [0.5], "errors": []}
    other = {"searches": [0.2] * 100, "photos": [], "errors": ["429", "500"]}
    told = bench_serve.summary([one, other], 10.0)
    assert told["errors"] == 2 and told["first_errors"] == ["429", "500"] and told["seconds"] == 10
    assert told["searches"]["count"] == 200 and told["searches"]["a_second"] == 20
    assert told["searches"]["p50_ms"] == pytest.approx(150, abs=51) and told["searches"]["p99_ms"] == 200
    assert told["photos"] == {"count": 1, "a_second": 0.1, "p50_ms": 500, "p99_ms": 500, "max_ms": 500}
    assert bench_serve.summary([{**one, "searches": []}], 1.0).keys() >= {"photos"}


@pytest.fixture(scope="module")
def searcher(tiny, tmp_path_factory):
    return open_searcher(served.make_index(tmp_path_factory.mktemp("bench"), tiny["clip"]))


def test_a_short_load(searcher):
    with served.running(searcher, Limits(rate=50, hosts=served.HERE)) as address:
        port = int(address.rpartition(":")[2])
        before = bench_serve.cpu_seconds(port)
        told = bench_serve.load(port, 3, 2.0, 0.05)
        assert 0 < before < bench_serve.cpu_seconds(port)
    assert told["errors"] == 0 and told["clients"] == 3 and told["searches"]["count"] >= 3
    assert told["photos"]["count"] == bench_serve.PHOTOS * told["searches"]["count"]


def test_each_client_has_a_rate_of_its_own(searcher):
    with served.running(searcher, Limits(rate=1e-6, hosts=served.HERE)) as address:
        told = bench_serve.load(int(address.rpartition(":")[2]), 2, 3.0, 0.01)
    # Five at once: four searches and sixteen photos. Then every answer is 429.
    assert told["errors"] > 0 and all("429" in error for error in told["first_errors"])
    assert told["searches"]["count"] > 2
