"""Scores compared with those of made-up descriptions."""

import json

import numpy as np
import pytest

from tests import search_galleries
from tpr_jax.search.__main__ import main
from tpr_jax.search.index.build import build
from tpr_jax.search.index.forget import forget
from tpr_jax.search.query import chance
from tpr_jax.search.query.combine import combine
from tpr_jax.search.query.search import open_searcher, search


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    place = tmp_path_factory.mktemp("chance")
    search_galleries.photos(place / "photos", 60)
    build(place / "photos", place / "index", tiny["clip"])
    return place / "index"


def scores_of(searcher, texts=1, without=0, rows=slice(None)):
    feats = searcher.model.encode_texts(chance.descriptions())
    queries = []
    for i in range(len(feats)):
        later = [feats[(i + j) % len(feats)] for j in range(texts + without)]
        vector = np.mean(later[:texts], axis=0)
        vector = vector - 0.3 * np.mean(later[texts:], axis=0) if without else vector
        queries.append(vector / np.linalg.norm(vector))
    return np.array(queries) @ np.asarray(searcher.index.vectors[rows], np.float32).T


def test_descriptions_are_fixed_and_distinct():
    texts = chance.descriptions()
    assert texts == chance.descriptions() and len(set(texts)) == len(texts) == chance.COUNT
    assert texts[0] == "A man carrying a red bag slung across the body."
    assert all(text.count("wearing") + text.count("carrying") == 1 for text in texts)
    assert not any(" and " in text for text in texts)  # one thing each, as the shortest queries name


@pytest.mark.parametrize(
    ("query", "form", "first"),
    [
        ({}, {}, 0),
        ({"where": "path >= '005'"}, {"rows": slice(5, None)}, 5),
        ({"text": ["a red coat", "blue trousers"], "without": "a hat"}, {"texts": 2, "without": 1}, 0),
    ],
)
def test_shares_are_those_of_all_scores(folder, query, form, first):
    searcher = open_searcher(folder)
    found = search(searcher, **{"text": "a red coat", "top_k": 60, **query})
    scores = scores_of(searcher, **form)
    best = found["results"][0]["score"]
    assert found["chance"] == pytest.approx((scores.max(axis=1) >= best - 1e-6).mean(), abs=0.005)
    assert found["unlikely"] == (found["chance"] >= 0.9)
    for one in found["results"]:
        assert one["chance"] == pytest.approx((scores >= one["score"]).mean(), abs=0.003)


def test_says_unlikely_when_the_best_is_no_better_than_chance(folder, monkeypatch):
    searcher = open_searcher(folder)
    low = chance.Baseline(np.full(256, -1, np.float32), np.full(1001, -1, np.float32))
    monkeypatch.setattr(chance.Baselines, "find", lambda *args: low)
    found = search(searcher, "a red coat")
    assert found["chance"] == 0 and not found["unlikely"] and found["notes"] == []
    high = chance.Baseline(np.ones(256, np.float32), np.ones(1001, np.float32))
    monkeypatch.setattr(chance.Baselines, "find", lambda *args: high)
    found = search(searcher, "a red coat")
    assert found["unlikely"] and found["chance"] == 1
    assert found["notes"][-1].startswith("unlikely to be here: 100 % of made-up descriptions")


def test_photos_and_small_galleries_have_no_chance(folder):
    searcher = open_searcher(folder)
    found = search(searcher, like=3)
    assert found["chance"] is None and found["results"][0]["chance"] is None and not found["unlikely"]
    few = search(searcher, "a red coat", where="path < '049'")
    assert few["chance"] is None and few["matching"] == 49
    assert search(searcher, "a red coat", where="path = 'none'")["chance"] is None


def test_scores_are_kept_until_the_vectors_change(folder, tiny, tmp_path, monkeypatch):
    build(folder.parent / "photos", tmp_path / "index", tiny["clip"])
    first = search(open_searcher(tmp_path / "index"), "a red coat")
    assert (tmp_path / "index" / "chance.npz").is_file()
    encoded, scored = [], []
    monkeypatch.setattr(chance, "descriptions", lambda real=chance.descriptions: encoded.append(1) or real())
    real = chance.score_photos
    monkeypatch.setattr(chance, "score_photos", lambda *args: scored.append(1) or real(*args))
    again = search(open_searcher(tmp_path / "index"), "a red coat")
    assert again["results"] == first["results"] and again["chance"] == first["chance"] and not scored
    forget(tmp_path / "index", "path = '007.png'")
    assert not (tmp_path / "index" / "chance.npz").exists()
    search(open_searcher(tmp_path / "index"), "a red coat")
    assert len(scored) == 1
    (tmp_path / "index" / "chance.npz").write_bytes(b"damaged")
    assert search(open_searcher(tmp_path / "index"), "a red coat")["chance"] is not None


def test_the_command_prints_it(folder, capsys):
    assert main(["query", "a red coat", "--index", str(folder), "--top_k", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " %  " in lines[0] and lines[2].startswith("percent: pairs of a made-up description")
    assert main(["query", "a red coat", "--index", str(folder), "--top_k", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert f"{100 * answer['results'][0]['chance']:.1f} %" in lines[0] and "unlikely" in answer


def test_combines_as_queries_do():
    feats = np.eye(6, dtype=np.float32)
    (first, *_) = chance._combined(feats, chance._Form(2, 1))
    wanted = combine(feats[:2], feats[2:3], None)
    assert first == pytest.approx(wanted / np.linalg.norm(wanted))
