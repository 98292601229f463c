"""The scores of shorter vectors, against cosines of vectors that are cut and rounded here."""

import json

import numpy as np
import pytest

from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.config.flags import parse_command
from tpr_jax.errors import UserError
from tpr_jax.train import eval_run, vectors
from tpr_jax.train.evaluate import EncodedSplit


@pytest.fixture(scope="module")
def encoded() -> EncodedSplit:
    """Returns 60 queries of 30 images; the first 4 of the 16 numbers of a query are noise."""
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(30, 16)).astype(np.float32)
    query = np.repeat(gallery, 2, axis=0) + rng.normal(size=(60, 16)).astype(np.float32)
    query[:, :4] = rng.normal(size=(60, 4))
    pids = np.arange(30, dtype=np.int32) // 2
    images = np.repeat(np.arange(30), 2)
    return EncodedSplit(query, pids[images], [""] * 60, gallery, pids, [""] * 30, images)


def r1(query, gallery, split) -> float:
    best = np.argmax(query.astype(np.float64) @ gallery.astype(np.float64).T, axis=1)
    return 100 * float(np.mean(split.gallery_pids[best] == split.query_pids))


def test_scores_by_hand(encoded):
    found = vectors.score_vectors(encoded, [12, 4])
    assert [(row["numbers"], row["type"], row["bytes"]) for row in found] == [
        (16, "float32", 64),
        (16, "float16", 32),
        (16, "int8", 20),
        (12, "float32", 48),
        (12, "float16", 24),
        (12, "int8", 16),
        (4, "float32", 16),
        (4, "float16", 8),
        (4, "int8", 8),
    ]
    for row in found:
        query, gallery = (
            x[:, : row["numbers"]] / np.linalg.norm(x[:, : row["numbers"]], axis=1, keepdims=True)
            for x in (encoded.query_feats, encoded.gallery_feats)
        )
        if row["type"] == "int8":
            scale = np.abs(gallery).max(axis=1, keepdims=True) / 127
            gallery = np.round(gallery / scale) * scale
        elif row["type"] == "float16":
            gallery = gallery.astype(np.float16)
        assert row["t2i"]["R1"] == pytest.approx(r1(query, gallery, encoded))
    assert found[0]["t2i"]["R1"] > found[6]["t2i"]["R1"] + 20
    table = vectors.vectors_table(found).splitlines()
    assert len(table) == 2 + 9 and "int8" in table[4] and f"{found[2]['t2i']['mAP']:.2f}" in table[4]


def test_eight_bits_are_scored_as_eight_bits():
    """Two images that 8 bits cannot tell apart come in the order of the gallery; floats tell them apart."""
    gallery = np.array([[1.0, 0.0], [1.0, 0.003]], np.float32)
    query = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
    pids = np.array([1, 2], np.int32)
    split = EncodedSplit(
        query, np.array([2, 2], np.int32), [""] * 2, gallery, pids, [""] * 2, np.array([1, 1])
    )
    found = {row["type"]: row["t2i"]["R1"] for row in vectors.score_vectors(split, [])}
    assert found == {"float32": 100.0, "float16": 100.0, "int8": 0.0}


def test_a_size_that_is_not_smaller_is_an_error(encoded):
    with pytest.raises(UserError, match="--vectors 16: the features have 16 numbers"):
        vectors.score_vectors(encoded, [16, 8])


def test_eval_writes_the_rows(make_config, tmp_path, capsys):
    config = make_config()
    found = eval_run.evaluate_run(config, tmp_path, initial=True, vectors=[16, 8])
    written = json.loads((tmp_path / "eval.json").read_text())["vectors"]
    assert (
        written == found["vectors"] and [row["numbers"] for row in written] == [32] * 3 + [16] * 3 + [8] * 3
    )
    assert written[0]["t2i"] == pytest.approx(found["test"]["t2i"])
    assert "| numbers | type" in capsys.readouterr().out.replace("  ", " ")


def test_the_flag_needs_eval(tiny):
    words = ["main", "--config", tiny["config"], "--workdir", "x", "--vectors", "64"]
    with pytest.raises(UserError, match="--vectors needs --mode eval"):
        parse_command(words)
    assert parse_command([*words, "--mode", "eval"]).vectors == "64"
