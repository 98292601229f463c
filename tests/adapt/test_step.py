"""The rows of batches, augmentation, and the update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tpr_jax.adapt import step as step_lib
from tpr_jax.adapt.objectives import label_loss
from tpr_jax.data.augment import augment_image
from tpr_jax.distributed import sharding
from tpr_jax.train.state import TrainState


def test_each_pass_takes_all_rows_once():
    rows = np.concatenate([step_lib.rows_of_step(7, 5, step, 3, 11) for step in range(7)])
    passes = rows.reshape(5, 7)
    assert all(sorted(one) == list(range(7)) for one in passes.tolist())
    assert len({tuple(one) for one in passes.tolist()}) > 1


def test_rows_depend_on_seed_and_stream():
    rows = [step_lib.rows_of_step(50, 20, 0, seed, stream).tolist() for seed in (0, 1) for stream in (11, 12)]
    assert len({tuple(one) for one in rows}) == 4


def test_a_gallery_smaller_than_a_batch():
    rows = step_lib.rows_of_step(3, 8, 0, 0, 11).tolist()
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [0, 1, 2]


def test_augments_as_training_does():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 76, 24, 3), dtype=np.uint8)
    color = np.array([1, 2, 3], np.uint8)
    rows = np.array([2, 0, 2])
    found = step_lib.augmented(pixels, rows, 4, 9, color)
    for place, row in enumerate(rows):
        seeds = (9, 4, place, step_lib.AUGMENT_STREAM)
        np.testing.assert_array_equal(found[place], augment_image(pixels[row], seeds, pad=2, color=color))
    assert not np.array_equal(found[0], found[2])
    assert not np.array_equal(found, step_lib.augmented(pixels, rows, 5, 9, color))


# A model of two weights: features are inputs times them.
MODEL = {
    "encode_image": lambda v, x: (x.reshape(len(x), -1)[:, :2] * v["a"]["image"] + v["frozen"], []),
    "encode_text": lambda v, ids: (ids.astype(jnp.float32) * v["a"]["text"], []),
}
BATCH = {
    "image": np.array([[[[1.0, 2.0, 0.0]]], [[[0.5, -1.0, 0.0]]]], np.float32),
    "image_labels": np.array([[0.2, 0.8], [1.0, 0.0]], np.float32),
    "ids": np.array([[1, 3], [2, 1], [4, 1]], np.int32),
    "text_labels": np.array([[1.0, 0.0], [0.5, 0.5], [0.3, 0.7]], np.float32),
}
TARGETS = {"texts": np.eye(2, dtype=np.float32), "photos": np.array([[0.6, 0.8], [-0.8, 0.6]], np.float32)}
FROZEN = {"frozen": np.array([0.1, 0.2], np.float32)}


def trainable():
    return {"a": {"image": jnp.array([1.0, 2.0]), "text": jnp.array([0.5, 1.0])}}


def update(batch=BATCH, scale=4.0):
    optimizer = optax.sgd(0.1)
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    run = step_lib.jit_step(MODEL, optimizer, scale, mesh, "float32")
    return run(TrainState.create(optimizer, trainable()), FROZEN, batch, TARGETS)


def test_updates_by_the_sum_of_both_losses():
    def loss(weights):
        images = BATCH["image"].reshape(2, -1)[:, :2] * weights["a"]["image"] + FROZEN["frozen"]
        texts = BATCH["ids"] * weights["a"]["text"]
        return label_loss(images, TARGETS["texts"], BATCH["image_labels"], 4.0) + label_loss(
            texts, TARGETS["photos"], BATCH["text_labels"], 4.0
        )

    state, metrics = update()
    value, gradient = jax.value_and_grad(loss)(trainable())
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics["photos"] + metrics["texts"]) == pytest.approx(float(value), rel=1e-5)
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, trainable(), gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.trainable, expected)
    assert (int(state.step), int(state.bad_step)) == (1, -1)
    assert float(update(scale=2.0)[1]["loss"]) != pytest.approx(float(value), rel=1e-3)


def test_an_update_that_is_not_finite_changes_nothing():
    state, _ = update({**BATCH, "image": np.full_like(BATCH["image"], np.nan)})
    jax.tree.map(np.testing.assert_array_equal, state.trainable, trainable())
    assert (int(state.step), int(state.bad_step)) == (0, 0)
