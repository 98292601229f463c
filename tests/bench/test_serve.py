"""The load test: its summary, and a run against a real server."""

import io
import urllib.request

import pytest

from tests import served
from tpr_jax.bench import serve as bench_serve
from tpr_jax.errors import UserError
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server.guard import Limits


def test_summarizes_rates_and_percentiles():
    one = {"searches": [i / 1000 for i in range(1, 101)], "photos": [0.5], "errors": []}
    other = {"searches": [0.2] * 100, "photos": [], "errors": ["429", "500"]}
    summary = bench_serve.summarize([one, other], 10.0)
    assert summary["errors"] == 2 and summary["first_errors"] == ["429", "500"] and summary["seconds"] == 10
    assert summary["searches"]["count"] == 200 and summary["searches"]["a_second"] == 20
    assert (
        summary["searches"]["p50_ms"] == pytest.approx(150, abs=51) and summary["searches"]["p99_ms"] == 200
    )
    assert summary["photos"] == {"count": 1, "a_second": 0.1, "p50_ms": 500, "p99_ms": 500, "max_ms": 500}
    assert bench_serve.summarize([{**one, "searches": []}], 1.0).keys() >= {"photos"}


@pytest.fixture(scope="module")
def searcher(tiny, tmp_path_factory):
    return open_searcher(served.make_index(tmp_path_factory.mktemp("bench"), tiny["clip"]))


def test_short_load(searcher):
    with served.running(searcher, Limits(rate=50, hosts=served.HERE)) as address:
        port = int(address.rpartition(":")[2])
        before = bench_serve.server_cpu_seconds(port)
        summary = bench_serve.run_load(port, 3, 2.0, 0.05)
        assert 0 < before < bench_serve.server_cpu_seconds(port)
    assert summary["errors"] == 0 and summary["clients"] == 3 and summary["searches"]["count"] >= 3
    assert summary["photos"]["count"] == bench_serve.PHOTOS_PER_SEARCH * summary["searches"]["count"]


def test_a_server_that_does_not_report_its_cpu_time(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"python_info 1.0\n"))
    with pytest.raises(UserError, match="8077/metrics: has no process_cpu_seconds_total"):
        bench_serve.server_cpu_seconds(8077)


def test_a_server_that_does_not_start(monkeypatch):
    monkeypatch.setattr(bench_serve.sys, "executable", "false")
    with pytest.raises(UserError, match="here: the server did not start"):
        bench_serve.measure("here", 1, 1.0, 0.0)


def test_each_client_has_its_own_rate_limit(searcher):
    with served.running(searcher, Limits(rate=1e-6, hosts=served.HERE)) as address:
        port, summaries = int(address.rpartition(":")[2]), []
        while not (summaries and summaries[-1]["errors"]):  # a busy machine may need several loads
            summaries.append(bench_serve.run_load(port, 2, 1.0, 0.01))
            assert len(summaries) < 20
    # The first few requests of each client are answered, and every later one with 429.
    assert all("429" in error for error in summaries[-1]["first_errors"])
    assert sum(summary["searches"]["count"] for summary in summaries) > 2
