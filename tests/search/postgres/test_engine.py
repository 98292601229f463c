"""Searches in PostgreSQL against the exact engine, and the commands with a store."""

import json
import os
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from tests import search_galleries, stored_indexes
from tests.stored_indexes import mixture
from tpr_jax.errors import UserError
from tpr_jax.search.__main__ import main
from tpr_jax.search.index.store import open_index
from tpr_jax.search.postgres import engine as postgres_engine
from tpr_jax.search.postgres import update
from tpr_jax.search.postgres.update import sync
from tpr_jax.search.query.engine import make_engine
from tpr_jax.search.query.search import open_searcher, search

VECTORS = mixture(3000, 16)
COLUMNS = {"camera": pa.array([i % 7 for i in range(3000)], pa.int64())}


def queries(count, width=16, seed=1):
    found = mixture(count, width, seed).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture
def folder(tmp_path):
    return stored_indexes.write_folder(tmp_path / "index", VECTORS, COLUMNS)


def test_small_tables_are_searched_exactly(folder, url):
    sync(folder, url)
    index = open_index(folder)
    stored, files = make_engine(index), make_engine(index, "cpu")
    assert stored.name == "postgres"
    for query in queries(10):
        for k in (1, 10, 3000):
            for got, want in zip(stored.search(query, k, None), files.search(query, k, None), strict=True):
                np.testing.assert_array_equal(got, want)
    allowed = np.arange(3000) % 7 == 3
    selection = stored.select("camera = 3")
    assert (selection.engine, selection.count) == ("postgres", allowed.sum())
    for got, want in zip(selection.search(query, 10), files.search(query, 10, allowed), strict=True):
        np.testing.assert_array_equal(got, want)
    assert stored.select("camera > 99").count == 0


@pytest.mark.parametrize("one_by_one", [0, 20_000])
def test_filters_of_the_graph(folder, url, monkeypatch, one_by_one):
    """With the graph, and by comparing all that match: a condition that few rows meet loses none."""
    import psycopg

    monkeypatch.setattr(update, "MIN_HNSW", 1000)
    monkeypatch.setattr(postgres_engine, "MAX_ONE_BY_ONE", one_by_one)
    monkeypatch.setattr(update, "GRAPHS", {0: (5, 11), 3000: (17, 65), 3001: (6, 12)})
    result = sync(folder, url)
    with psycopg.connect(url) as connection:
        query = "select reloptions from pg_class where relname = 'tpr_jax_photos_1_hnsw'"
        assert connection.execute(query).fetchone() == (["m=17", "ef_construction=65"],)
    assert result["candidates"] in (40, 80, 160, 320) and result["recall"] >= 0.99
    index = open_index(folder)
    stored, files, hits = make_engine(index), make_engine(index, "cpu"), []
    for where, allowed in (
        ("camera = 3", np.arange(3000) % 7 == 3),
        ("path < '0000040.jpg'", np.arange(3000) < 40),
    ):
        for query in queries(20):
            selection = stored.select(where)
            assert selection.count == allowed.sum()
            scores, rows = selection.search(query, 10)
            want = files.search(query, 10, allowed)[1]
            assert len(rows) == 10 and allowed[rows].all() and (np.diff(scores) <= 0).all()
            hits.append(len(set(rows.tolist()) & set(want.tolist())) / 10)
    assert np.mean(hits) >= 0.99
    if one_by_one:
        assert np.mean(hits) == 1


def test_a_graph_that_finds_too_few_rows(folder, url, monkeypatch):
    monkeypatch.setattr(update, "MIN_HNSW", 1000)
    monkeypatch.setattr(postgres_engine, "MAX_ONE_BY_ONE", 0)
    sync(folder, url)
    index, query = open_index(folder), queries(1)[0]
    want = make_engine(index, "cpu").search(query, 10, None)[1]
    monkeypatch.setattr(postgres_engine, "nearest_ids", lambda *_: [])
    np.testing.assert_array_equal(make_engine(index).search(query, 10, None)[1], want)


def test_the_graph_follows_an_update(folder, url, monkeypatch):
    monkeypatch.setattr(update, "MIN_HNSW", 1000)
    sync(folder, url)
    vectors = np.concatenate([VECTORS[:2990], -VECTORS[:10]])
    stored_indexes.write_folder(folder, vectors, COLUMNS)
    assert sync(folder)["added"] == 10
    found = make_engine(open_index(folder)).search(-VECTORS[4].astype(np.float32), 1, None)
    assert found[1].tolist() == [2994]


def test_threads_share_connections_and_a_lost_one_is_replaced(folder, url):
    import psycopg

    sync(folder, url)
    store = make_engine(open_index(folder))
    results, query = [], queries(1)[0]

    def ask():
        results.append(store.search(query, 5, None)[1].tolist())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and results.count(results[0]) == 4
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 60000) from pg_stat_activity "
            "where application_name = 'tpr_jax' and pid <> pg_backend_pid()"
        )
    ask()
    assert results[-1] == results[0]


def test_an_engine_that_the_index_does_not_have(folder):
    with pytest.raises(UserError, match="is not in PostgreSQL: index with --store postgresql://"):
        make_engine(open_index(folder), "postgres")
    assert make_engine(open_index(folder)).name == "cpu"


def test_the_commands(tiny, tmp_path, url, capsys):
    names = search_galleries.photos(tmp_path / "photos")
    table = tmp_path / "photos/photos.jsonl"
    lines = [json.dumps({"image": name, "camera": i % 3}) for i, name in enumerate(names)]
    table.write_text("\n".join(lines))
    index = str(tmp_path / "index")
    assert main(["index", str(table), "--index", index, "--model", tiny["clip"], "--store", url]) == 0
    assert "12 rows in table tpr_jax_photos: 12 written, 0 removed" in capsys.readouterr().out
    searcher = open_searcher(index)
    files = open_searcher(index, engine="cpu")
    for options in ({}, {"where": "camera = 1"}, {"group": 0.9}, {"like": 3, "top_k": 4}):
        text = None if "like" in options else "a red person"
        got, want = (search(one, text, **options) for one in (searcher, files))
        assert got["engine"] == "postgres" and want["engine"] == "cpu"
        for name in ("results", "count", "matching"):
            assert got[name] == want[name]
    # Later runs need no --store.
    table.write_text("\n".join(lines[1:]))
    assert main(["index", str(table), "--index", index]) == 0
    assert "11 rows in table tpr_jax_photos: 0 written, 1 removed" in capsys.readouterr().out
    assert main(["query", "a red person", "--index", index, "--where", "camera=1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["engine"] == "postgres" and answer["matching"] == 4
    # A wrong address is reported before anything is encoded.
    other = str(tmp_path / "other")
    wrong = url.replace("/people", "/nobody")
    assert main(["index", str(table), "--index", other, "--model", tiny["clip"], "--store", wrong]) == 2
    assert capsys.readouterr().err.endswith('has no database "nobody": createdb nobody\n')
    assert not (tmp_path / "other/index.json").exists()


def like_texts(count, seed):
    """Returns queries between the photos' vectors and random ones: texts are far from all photos."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(0).normal(size=(500, 64))  # those of `mixture`
    vectors = centers[rng.integers(500, size=count)] + rng.normal(size=(count, 64))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) + queries(count, 64, seed)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def sizes(url):
    """Returns the sizes of the table and its HNSW index, as PostgreSQL prints them."""
    import psycopg

    with psycopg.connect(url) as connection:
        return connection.execute(
            "select pg_size_pretty(pg_table_size('tpr_jax_photos_1')), "
            "pg_size_pretty(pg_relation_size('tpr_jax_photos_1_hnsw'))"
        ).fetchone()


@pytest.mark.slow
def test_recall_of_many_rows(tmp_path, url):
    """Top 10 against exact: all rows, and conditions that 50 %, 14 % and 1 % of them meet.

    The queries are other ones than those that the update measures with. TPR_POSTGRES_ROWS=1000000 takes more
    rows, and `pytest -s` shows the figures.
    """
    count, width = int(os.environ.get("TPR_POSTGRES_ROWS", "100000")), 64
    vectors = mixture(count, width)
    columns = {"half": pa.array(np.arange(count) % 2), "camera": pa.array(np.arange(count) % 7),
               "rare": pa.array(np.arange(count) % 100)}  # fmt: skip
    folder = stored_indexes.write_folder(tmp_path / "index", vectors, columns)
    start = time.monotonic()
    result = sync(folder, url, sentence_feats=lambda: like_texts(100, 1))
    print(f"\n{result}, {time.monotonic() - start:.0f} s, {sizes(url)}")
    assert result["recall"] >= 0.99
    index, numbers = open_index(folder), np.arange(count)
    stored, single = make_engine(index), vectors.astype(np.float32)
    filters = {
        None: numbers >= 0,
        "half = 1": numbers % 2 == 1,
        "camera = 3": numbers % 7 == 3,
        "rare = 5": numbers % 100 == 5,
    }
    for where, allowed in filters.items():
        hits, seconds, rows_there = [], [], np.flatnonzero(allowed)
        for query in like_texts(300, 2):
            start = time.monotonic()
            selection = stored.select(where)
            found = selection.search(query, 10)[1]
            seconds.append(time.monotonic() - start)
            assert selection.count == len(rows_there)
            scores = single[rows_there] @ query
            want = rows_there[np.argpartition(-scores, 10)[:10]]
            hits.append(len(set(found.tolist()) & set(want.tolist())) / 10)
        print(f"{where}: recall {np.mean(hits):.4f}, median {1000 * np.median(seconds):.1f} ms")
        assert np.mean(hits) >= 0.99, (where, np.mean(hits))
