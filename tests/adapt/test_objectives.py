"""Pseudo-labels and their loss, against values worked out by hand and by other formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpr_jax.adapt import objectives


def unit(*rows):
    rows = np.array(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_balances_a_table_of_two_by_two():
    """[[4, 1], [1, 1]], scaled by diag(1, 2) on both sides and divided by 12, is [[2, 1], [1, 2]] / 6."""
    joint = objectives.balanced(np.log([[4.0, 1.0], [1.0, 1.0]]), steps=60)
    np.testing.assert_allclose(joint, np.array([[2, 1], [1, 2]]) / 6, atol=1e-6)


def test_one_pass_scales_rows_and_then_columns():
    """Rows: [[.4, .1], [.25, .25]]. Columns: divided by .65 and .35, and by 2."""
    joint = objectives.balanced(np.log([[4.0, 1.0], [1.0, 1.0]]), steps=1)
    np.testing.assert_allclose(joint, [[0.4 / 1.3, 0.1 / 0.7], [0.25 / 1.3, 0.25 / 0.7]], rtol=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_rows_and_columns_have_equal_sums(seed, t, n):
    logits = np.random.default_rng(seed).normal(size=(t, n))
    joint = objectives.balanced(logits, steps=300)
    np.testing.assert_allclose(joint.sum(0), 1 / n, rtol=1e-6)
    np.testing.assert_allclose(joint.sum(1), 1 / t, rtol=1e-3)
    # Balancing keeps the odds of any two rows and columns.
    ratio = np.log(joint) - logits
    np.testing.assert_allclose(ratio - ratio[:1] - ratio[:, :1] + ratio[0, 0], 0, atol=1e-6)


def test_large_logits_do_not_overflow():
    joint = objectives.balanced(np.array([[900.0, 0.0], [0.0, 900.0]]))
    np.testing.assert_allclose(joint, [[0.5, 0], [0, 0.5]], atol=1e-12)
    np.testing.assert_allclose(objectives.balanced(np.array([[2000.0, 0.0], [2000.0, 0.0]])), 0.25)


def test_sharpens_each_row():
    """Squares of 1 and 3 are 1 and 9; the scale of a row does not matter."""
    found = objectives.conditional(np.array([[0.1, 0.3], [5e-200, 5e-200]]))
    np.testing.assert_allclose(found, [[0.1, 0.9], [0.5, 0.5]], rtol=1e-6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(objectives.conditional(np.array([[1.0, 3.0]]), 1.0), [[0.25, 0.75]])


def test_a_photo_that_is_near_to_all_texts_is_not_the_answer_to_all():
    """Photo 0 is nearest to both texts; balanced, each text has its own."""
    texts, photos = unit([1, 0.1], [1, -0.1]), unit([1, 0.02], [1, -1.2])
    assert (texts @ photos.T).argmax(1).tolist() == [0, 0]
    of_texts, of_photos = objectives.pseudo_labels(texts, photos, 20.0)
    assert of_texts.argmax(1).tolist() == [0, 1] and of_photos.argmax(1).tolist() == [0, 1]


def test_labels_of_photos_are_those_of_the_transposed_table():
    rng = np.random.default_rng(0)
    texts, photos = unit(*rng.normal(size=(3, 4))), unit(*rng.normal(size=(5, 4)))
    of_texts, of_photos = objectives.pseudo_labels(texts, photos, 3.0)
    assert of_texts.shape == (3, 5) and of_photos.shape == (5, 3)
    joint = objectives.balanced(3.0 * texts @ photos.T)
    for row in range(3):
        squares = joint[row] ** 2
        np.testing.assert_allclose(of_texts[row], squares / squares.sum(), rtol=1e-4)
    for column in range(5):
        squares = joint[:, column] ** 2
        np.testing.assert_allclose(of_photos[column], squares / squares.sum(), rtol=1e-4)


def test_loss_of_one_feature_by_hand():
    """Cosines 1 and 0, scale 2, labels 3/4 and 1/4: log(e^2 + 1) - 3/4 * 2."""
    feats, others = jnp.array([[5.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
    loss = objectives.label_loss(feats, others, jnp.array([[0.75, 0.25]]), 2.0)
    assert float(loss) == pytest.approx(np.log(np.exp(2) + 1) - 1.5, rel=1e-6)


def test_loss_is_the_mean_over_rows():
    rng = np.random.default_rng(0)
    feats, others = rng.normal(size=(3, 4)).astype(np.float32), unit(*rng.normal(size=(2, 4)))
    labels = objectives.conditional(rng.random((3, 2)))
    rows = [float(objectives.label_loss(feats[i : i + 1], others, labels[i : i + 1], 7.0)) for i in range(3)]
    assert float(objectives.label_loss(feats, others, labels, 7.0)) == pytest.approx(np.mean(rows), rel=1e-5)


def test_gradient_moves_a_feature_to_its_label():
    others, labels = jnp.eye(2), jnp.array([[1.0, 0.0]])
    gradient = jax.grad(lambda x: objectives.label_loss(x, others, labels, 5.0))(jnp.array([[1.0, 1.0]]))
    assert gradient[0, 0] < 0 < gradient[0, 1]
