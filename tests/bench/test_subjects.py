"""The subjects can be built and do what they claim to."""

import dataclasses
import inspect
import subprocess

import jax
import numpy as np
import pytest
from PIL import Image

from tpr_jax.bench import __main__ as bench
from tpr_jax.bench import models
from tpr_jax.bench import subjects as bench_subjects
from tpr_jax.bench.input import write_images
from tpr_jax.model import make_model
from tpr_jax.models import clip


@pytest.mark.parametrize("section", bench.SECTIONS)
def test_every_subject_of_bench_can_be_built(section):
    for subjects in bench.groups(section, torch=True).values():
        for subject in subjects:
            given = {key: value for key, value in subject.items() if key != "kind"}
            inspect.signature(bench_subjects.CASE_BUILDERS[subject["kind"]]).bind(**given)


@pytest.mark.parametrize(
    ("by", "dtype"), [("xla", "bfloat16"), ("options", "bfloat16"), ("numpy", "float32")]
)
def test_matmul(by, dtype):
    case = bench_subjects.make_case({"kind": "product", "dtype": "bfloat16", "by": by, "size": 32})
    product = case.run()
    assert product.shape == (32, 32) and product.dtype == dtype and case.flops == 2 * 32**3
    assert np.abs(np.asarray(product, np.float32)).max() > 1  # of random numbers, not of zeros


def test_checkpoint_is_saved_and_restored():
    bench_subjects.checkpoint("parallel_adapter", "clip_mini", "save").run()
    step, state, _, broken = bench_subjects.checkpoint("parallel_adapter", "clip_mini", "restore").run()
    assert step == 0 and not broken
    assert sum(leaf.size for leaf in jax.tree.leaves(state.trainable)) == 76_880


def test_vector_search_finds_the_top_10():
    case = bench_subjects.vector_search(vectors=3_000, width=8)
    scores, rows = case.run()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3_000, 8), np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    query = np.random.default_rng(1).normal(size=8).astype(np.float32)
    expected = np.argsort(-(vectors.astype(np.float64) @ (query / np.linalg.norm(query))))[:10]
    assert set(rows.tolist()) == set(expected.tolist()) and (np.diff(scores) <= 0).all()


def test_text_query_tokenizes_encodes_and_searches(monkeypatch):
    mini = models.build_model("zero_shot", "clip_mini", "float32", 1)
    config = dataclasses.replace(
        mini.clip_config, vocab_size=49_408, context_length=77
    )  # as CLIP's tokenizer
    mini = mini._replace(clip_config=config, functions=clip.build(config, mini.method))
    monkeypatch.setattr(bench_subjects, "build_model", lambda *_: mini)
    case = bench_subjects.text_query("clip_mini", "float32", 500)
    scores, rows = case.run()
    assert len(set(rows.tolist())) == 10 and np.abs(scores).max() < 1 and case.compile_seconds > 0


def test_photo_index_has_the_vectors_of_the_model(tmp_path):
    """Of the same JPEGs and the same random model, as Python's interface computes them."""
    case = bench_subjects.make_case(
        {"kind": "index", "backbone": "clip_mini", "dtype": "float32", "photos": 40}
    )
    assert case.flops == 40 / 4 * bench_subjects.photo_index("clip_mini", "float32", 4).flops
    write_images(tmp_path, 40)
    _, config, method, functions = models.build_model("zero_shot", "clip_mini", "float32", 1)
    model = make_model(config, method, jax.jit(functions["init"])(jax.random.key(0)), dtype="float32")
    pixels = [Image.open(path).convert("RGB") for path in sorted(tmp_path.iterdir())]
    found, expected = case.run().astype(np.float32), model.encode_images(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (found @ expected.T).argmax(axis=1).tolist() == list(range(40))


def test_ranking_and_command():
    sizes = {"queries": 30, "gallery": 20, "identities": 5}
    metrics = bench_subjects.make_case({"kind": "ranking", "of": "a split", **sizes}).run()
    assert 0 < metrics["t2i"]["R1"] < 100
    assert bench_subjects.command("tpr_jax.bench.ranking").run().returncode == 0
    with pytest.raises(subprocess.CalledProcessError):
        bench_subjects.command("tpr_jax.nothing").run()
