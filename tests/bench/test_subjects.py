"""What is timed does what it says."""

import dataclasses
import inspect
import subprocess

import jax
import numpy as np
import pytest

from tpr_jax.bench import __main__ as bench
from tpr_jax.bench import cases as bench_models
from tpr_jax.bench import subjects as bench_subjects
from tpr_jax.models import clip


@pytest.mark.parametrize("part", bench.PARTS)
def test_every_subject_that_bench_names_can_be_made(part):
    for subjects in bench.groups(part, torch=True).values():
        for subject in subjects:
            given = {key: value for key, value in subject.items() if key != "kind"}
            inspect.signature(bench_subjects.MAKERS[subject["kind"]]).bind(**given)


def test_a_product():
    ready = bench_subjects.make({"kind": "product", "dtype": "bfloat16", "size": 32})
    found = ready.once()
    assert found.shape == (32, 32) and found.dtype == "bfloat16" and ready.flops == 2 * 32**3
    assert np.abs(np.asarray(found, np.float32)).max() > 1  # of random numbers, not of zeros


def test_a_checkpoint_goes_to_the_disk_and_back():
    bench_subjects.checkpoint("parallel_adapter", "clip_mini", "save").once()
    step, state, _, broken = bench_subjects.checkpoint("parallel_adapter", "clip_mini", "restore").once()
    assert step == 0 and not broken
    assert sum(leaf.size for leaf in jax.tree.leaves(state["trainable"])) == 76_880


def test_a_search_finds_the_ten_nearest():
    ready = bench_subjects.searching(vectors=3_000, width=8)
    scores, rows = ready.once()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3_000, 8), np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    query = np.random.default_rng(1).normal(size=8).astype(np.float32)
    expected = np.argsort(-(vectors.astype(np.float64) @ (query / np.linalg.norm(query))))[:10]
    assert set(rows.tolist()) == set(expected.tolist()) and (np.diff(scores) <= 0).all()


def test_a_sentence_is_read_encoded_and_looked_for(monkeypatch):
    mini = bench_models.model_of("zero_shot", "clip_mini", "float32", 1)
    config = dataclasses.replace(mini[1], vocab_size=49_408, context_length=77)  # what CLIP's tokenizer gives
    mini = (*mini[:1], config, mini[2], clip.build(config, mini[2]))
    monkeypatch.setattr(bench_subjects, "model_of", lambda *_: mini)
    ready = bench_subjects.query("clip_mini", "float32", 500)
    scores, rows = ready.once()
    assert len(set(rows.tolist())) == 10 and np.abs(scores).max() < 1 and ready.compile_seconds > 0


def test_a_ranking_and_a_command():
    sizes = {"queries": 30, "gallery": 20, "identities": 5}
    found = bench_subjects.make({"kind": "ranking", "of": "a split", **sizes}).once()
    assert 0 < found["t2i"]["R1"] < 100
    assert bench_subjects.command("tpr_jax.bench.ranking").once().returncode == 0
    with pytest.raises(subprocess.CalledProcessError):
        bench_subjects.command("tpr_jax.nothing").once()
