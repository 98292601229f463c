"""Scores of a split, and the file that keeps them."""

import json

import numpy as np
import pytest

import tpr_jax
from tpr_jax.cross.score import read_cell, score
from tpr_jax.data.records import load_records

SCORES = {"R1": 1.0, "R5": 2.0, "R10": 3.0, "mAP": 4.0, "mINP": 5.0}
CELL = {"sha256": "a", "images_sha256": "b", "test": {"t2i": SCORES, "i2t": SCORES}}
SOURCE = {"sha256": "a", "images_sha256": "b"}


@pytest.mark.parametrize("at_once", [3, 1000])
def test_scores_both_directions_in_any_batches(tiny, monkeypatch, at_once):
    """The nearest image of each caption, and the nearest caption of each image, are worked out in NumPy."""
    monkeypatch.setattr("tpr_jax.perf.batches.images_at_once", lambda config: at_once)
    model = tpr_jax.from_pretrained(tiny["clip"])
    records = load_records(tiny["data"], "test", "cuhk_pedes")
    found = score(model, records)
    assert [list(scores) for scores in found.values()] == [list(SCORES)] * 2
    captions = [caption for of_image in records.captions for caption in of_image]
    text_pids = np.repeat(records.pids, [len(of_image) for of_image in records.captions])
    similarity = model.encode_texts(captions) @ model.encode_images(records.image_paths).T
    hits = {
        "t2i": records.pids[similarity.argmax(1)] == text_pids,
        "i2t": text_pids[similarity.argmax(0)] == records.pids,
    }
    for direction, right in hits.items():
        assert found[direction]["R1"] == pytest.approx(100 * right.mean(), abs=1e-6)


def test_reads_only_complete_scores_of_the_same_source(tmp_path):
    path = tmp_path / "cell.json"
    assert read_cell(path, SOURCE) is None
    path.write_text(json.dumps(CELL))
    assert read_cell(path, SOURCE) == CELL["test"]
    for changed in ({"sha256": "x"}, {"images_sha256": "x"}, {"new": "x"}):
        assert read_cell(path, SOURCE | changed) is None
    for broken in ({"t2i": SCORES}, {"t2i": SCORES, "i2t": {**SCORES, "mAP": "x"}}, [], None):
        path.write_text(json.dumps(CELL | {"test": broken}))
        assert read_cell(path, SOURCE) is None
    path.write_text(json.dumps(CELL)[:-5])
    assert read_cell(path, SOURCE) is None
