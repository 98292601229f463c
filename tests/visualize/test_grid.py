"""The grid's photos and their order match cosines ranked one by one, and the metrics."""

import numpy as np
import pytest

import tpr_jax
from tests.tiny_clip import quick_compilation  # noqa: F401
from tpr_jax.metrics import retrieval
from tpr_jax.visualize import grid, inputs


@pytest.fixture(scope="module")
def found(tiny):
    model, examples = tpr_jax.from_pretrained(tiny["clip"]), inputs.split_examples(None, tiny["data"], "test")
    return model, examples, grid.retrieve(model, examples, number=1000, top_k=10)


def test_order_follows_the_cosines(found):
    model, examples, queries = found
    images = np.concatenate([model.encode_images([photo]) for photo in examples.images])
    assert [query["caption"] for query in queries] == examples.texts
    for query, text in zip(queries, examples.texts, strict=True):
        cosines = images @ model.encode_texts([text])[0]
        scores = [photo["score"] for photo in query["ranked"]]
        best = np.sort(cosines)[::-1][:10]
        np.testing.assert_allclose(scores, best, atol=1e-5)
        for photo in query["ranked"]:
            row = examples.images.index(photo["path"])
            assert photo["score"] == pytest.approx(cosines[row], abs=1e-5)
            assert photo["pid"] == examples.image_pids[row]


def test_fraction_of_right_photos_is_the_recall(found):
    model, examples, queries = found
    right = np.array([[photo["pid"] == query["pid"] for photo in query["ranked"]] for query in queries])
    scored = retrieval.retrieval_metrics(
        model.encode_texts(examples.texts),
        model.encode_images(examples.images),
        examples.text_pids,
        examples.image_pids,
    )["t2i"]
    for k in (1, 5, 10):
        assert 100 * right[:, :k].any(1).mean() == pytest.approx(scored[f"R{k}"])


def test_marks_only_the_right_photos(found):
    model, examples, queries = found
    files = grid.make_files(model, examples, title="t", number=1000, top_k=10)
    right = sum(photo["pid"] == query["pid"] for query in queries for photo in query["ranked"])
    html = files["grid.html"].decode()
    assert html.count("<li class=match>") == html.count("✓") == right > 0
    firsts = sum(query["ranked"][0]["pid"] == query["pid"] for query in queries)
    assert f"the first photo is right for {firsts} of {len(queries)}." in html


def test_captions_are_spread_over_the_split(found):
    model, examples, _ = found
    few = grid.retrieve(model, examples, number=3, top_k=1)
    assert [query["caption"] for query in few] == [examples.texts[row] for row in (0, 16, 31)]
