"""Encoding a split in batches, scoring it, and the examples for the report."""

import numpy as np
import pytest

from tpr_jax.data.records import load_records
from tpr_jax.train import evaluate


def by_color(variables, images):
    """Stands in for the vision tower: the mean color of the upper and the lower half."""
    images = np.asarray(images, np.float32)
    half = images.shape[1] // 2
    feats = np.concatenate([images[:, :half].mean((1, 2)), images[:, half:].mean((1, 2))], axis=1)
    return feats * variables["scale"]


def by_length(variables, ids):
    """Stands in for the text tower."""
    return np.eye(6, dtype=np.float32)[np.asarray(ids)[:, 0] % 6] * variables["scale"]


def tokenize(captions):
    return np.array([[len(caption), 1] for caption in captions], np.int32)


@pytest.mark.parametrize("batch_size", [1, 5, 16, 64])
def test_encode_split_keeps_the_order_at_any_batch_size(tiny, batch_size):
    records = load_records(tiny["data"], "test")
    variables = {"scale": np.float32(2)}
    split = evaluate.encode_split((by_color, by_length), variables, records, tokenize, (32, 16), batch_size)
    assert split.paths == records.image_paths and len(split.paths) == 16
    assert split.captions == [c for captions in records.captions for c in captions]
    assert split.query_pids.tolist() == np.repeat(records.pids, 2).tolist()
    assert split.gallery_pids.tolist() == records.pids.tolist()
    assert split.query_images.tolist() == np.repeat(np.arange(16), 2).tolist()
    wanted = [2 * np.eye(6)[len(caption) % 6] for caption in split.captions]
    np.testing.assert_array_equal(split.query_feats, wanted)
    # Both pictures of an identity have its colors, which the annotation's first caption names.
    assert split.gallery_feats.shape == (16, 6)
    colors = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 50, 200), "yellow": (220, 210, 40)}
    colors |= {"white": (240,) * 3, "black": (15,) * 3, "grey": (128,) * 3, "pink": (240, 150, 180)}
    for feats, captions in zip(split.gallery_feats, records.captions, strict=True):
        words = captions[0].rstrip(".").split()
        expected = 2 * np.float32([*colors[words[4]], *colors[words[7]]])
        assert np.abs(feats - expected).max() < 30


def test_encode_split_keeps_the_order_of_captions_of_any_length(tiny):
    """Each is encoded with all of its words, and most without their padding."""
    records, widths = load_records(tiny["data"], "test"), set()

    def tokenize(captions):
        lengths = np.array([[len(caption) % 80] for caption in captions])
        return (np.arange(90) < lengths) + 98 * (np.arange(90) == lengths)

    def by_sum(variables, ids):
        widths.add(ids.shape[1])
        return np.stack([ids.sum(1), ids.max(1)], axis=1).astype(np.float32)

    split = evaluate.encode_split((by_color, by_sum), {"scale": 1}, records, tokenize, (32, 16), 3)
    wanted = [[len(caption) % 80 + 98, 98] for caption in split.captions]
    np.testing.assert_array_equal(split.query_feats, wanted)
    assert len(set(map(tuple, wanted))) > 3 and min(widths) < 90


def split_by_hand() -> evaluate.EncodedSplit:
    """Three captions, four photos; by the cosine the first caption's photos rank 0 2 1 3."""
    return evaluate.EncodedSplit(
        query_feats=np.float32([[1, 0], [0, 1], [1, 1]]),
        gallery_feats=np.float32([[5, 0], [0, 1], [1, 0.5], [-1, 0.1]]),
        query_pids=np.array([7, 8, 9]),
        gallery_pids=np.array([8, 8, 7, 9]),
        captions=["a", "b", "c"],
        paths=["0.jpg", "1.jpg", "2.jpg", "3.jpg"],
        query_images=np.array([2, 0, 3]),
    )


def test_score_by_hand():
    """Ranks of the matches: of a (7) photo 2 at 2; of b (8) photos 1 and 0 at 1 and 3; of c (9) photo 3 at 4.

    b's order is 1 2 3 0: cosines 1, 0.45, 0.0995, 0.
    """
    scores = evaluate.score(split_by_hand())["t2i"]
    assert scores["R1"] == pytest.approx(100 / 3) and scores["R5"] == 100
    assert scores["mAP"] == pytest.approx(100 * (1 / 2 + (1 + 2 / 4) / 2 + 1 / 4) / 3)
    assert scores["mINP"] == pytest.approx(100 * (1 / 2 + 2 / 4 + 1 / 4) / 3)


def test_examples_are_ranked_and_repeatable():
    split = split_by_hand()
    found = evaluate.examples(split, count=3, top_k=3)
    assert sorted(example["caption"] for example in found) == ["a", "b", "c"]
    first = next(example for example in found if example["caption"] == "a")
    assert first["pid"] == 7
    assert [r["path"] for r in first["ranked"]] == ["0.jpg", "2.jpg", "1.jpg"]
    assert [r["pid"] for r in first["ranked"]] == [8, 7, 8]
    assert [r["score"] for r in first["ranked"]] == pytest.approx([1, 2 / 5**0.5, 0], abs=1e-6)
    assert evaluate.examples(split, count=3, top_k=3) == found
    assert len(evaluate.examples(split, count=2, top_k=3)) == 2
    assert len(evaluate.examples(split, count=12, top_k=10)) == 3  # no more than there are
