"""Several captions of one image as one query."""

import numpy as np
import pytest

from tpr_jax.metrics import rerank


def test_by_hand():
    """Captions of image 4 lie along x (of length 9) and y; image 2 has one caption."""
    feats, pids = rerank.fuse_captions(
        np.array([[9.0, 0.0], [0.0, -3.0], [0.0, 1.0]]), np.array([4, 2, 4]), np.array([7, 8, 7])
    )
    np.testing.assert_allclose(feats, [[0, -1], [np.sqrt(0.5)] * 2])
    assert pids.tolist() == [8, 7]


@pytest.mark.parametrize("counts", [[1, 1, 1], [2, 3, 1], [5]])
def test_is_the_mean_of_normalized_captions(counts):
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(len(counts)), counts)
    feats = rng.normal(size=(len(images), 5)) * rng.uniform(0.1, 9, (len(images), 1))
    order = rng.permutation(len(images))
    got, pids = rerank.fuse_captions(feats[order], images[order], 10 + images[order])
    for i, row in enumerate(got):
        rows = [feat / np.linalg.norm(feat) for feat in feats[images == i]]
        mean = np.mean(rows, axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean))
    assert pids.tolist() == [10 + i for i in range(len(counts))]
