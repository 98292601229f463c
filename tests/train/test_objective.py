"""A batch encoded in microbatches gives the losses and gradients of the whole batch."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny_clip as tiny
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax import losses, optim
from tpr_jax.models import clip
from tpr_jax.models.config import NO_HEADS, Heads
from tpr_jax.models.methods import METHODS
from tpr_jax.train import objective
from tpr_jax.utils.trees import flatten

CONFIG = dataclasses.replace(tiny.CONFIG, text_layers=1)
ROWS = 12
TEACHER = ("teacher_image", "teacher_text")  # features of another size than the student's


def masked_batch() -> dict:
    """Returns a batch whose microbatches have different numbers of masked words."""
    batch = tiny.batch(ROWS)
    ids = batch["ids"].copy()
    ids[: ROWS // 2, 1] = CONFIG.vocab_size - 2
    ids[-1, 1] = CONFIG.vocab_size - 2
    rng = np.random.default_rng(0)
    of_teacher = {key: rng.normal(size=(ROWS, 5)).astype(np.float32) for key in TEACHER}
    patches = np.stack([np.sort(rng.permutation(6)[:4]) for _ in range(ROWS)]).astype(np.int32)
    return {
        **batch,
        **of_teacher,
        "patches": patches,  # four of six
        "mlm_ids": ids,
        "mlm_labels": np.where(batch["ids"] != ids, batch["ids"], 0),
    }


def prepared(name: str):
    """Returns (model, weights of all losses that the method can have, trainable, frozen)."""
    method = METHODS[name](**(tiny.DM_SETTINGS if name == "dm_adapter" else tiny.SETTINGS.get(name, {})))
    used = [loss for loss in losses.NAMES if loss not in ("mlm", "id") or name == "irra"]
    weights = {loss: 1.0 + i / 8 for i, loss in enumerate(used) if loss != "balance" or method.mixtures}
    weights["distill_scores"] = 3.0
    heads = Heads(ROWS, mlm_depth=1) if name == "irra" else NO_HEADS
    model = clip.build(CONFIG, method, heads=heads)
    variables = tiny.random_like(clip.declare(CONFIG, method, heads), seed=0)
    return model, weights, *optim.split_model(jax.tree.map(jnp.asarray, variables), method)


@pytest.mark.parametrize(("name", "count"), [("dm_adapter", 3), ("dm_adapter", ROWS), ("irra", 4)])
def test_microbatches_give_the_loss_and_gradient_of_the_whole(name, count):
    model, weights, trainable, frozen = prepared(name)
    batch = masked_batch()

    def whole(trainable):
        return objective.objective(model, weights, 50.0, trainable, frozen, batch)

    (total, metrics), gradient = jax.jit(jax.value_and_grad(whole, has_aux=True))(trainable)
    microbatches = jax.tree.map(lambda rows: rows.reshape(count, ROWS // count, *rows.shape[1:]), batch)
    microbatched = jax.jit(
        lambda trainable, microbatches: objective.grad_cached_loss_and_grad(
            model, weights, 50.0, trainable, frozen, microbatches
        )
    )
    (mine, found), added = microbatched(trainable, microbatches)
    np.testing.assert_allclose(mine, total, rtol=1e-5)
    assert found.keys() == metrics.keys()
    for key in metrics:
        np.testing.assert_allclose(found[key], metrics[key], rtol=1e-5, err_msg=key)
    gradient, added = jax.device_get((gradient, added))
    norm = float(np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient))))
    added = flatten(added)
    for path, leaf in flatten(gradient).items():
        np.testing.assert_allclose(added[path], leaf, rtol=1e-4, atol=1e-5 * norm, err_msg=path)
    assert norm > 0


@pytest.mark.parametrize(("name", "count"), [("dm_adapter", 1), ("irra", 1), ("irra", 2)])
def test_several_captions_of_an_image_are_as_many_pairs(name, count):
    """The losses and gradients are those of a batch with a copy of the image for each caption."""
    model, weights, trainable, frozen = prepared(name)
    weights.pop("balance", None)  # the mean over images does not change, but rounds differently
    pairs, captions = masked_batch(), 3
    few, of_image = ROWS // captions, ("image", "pid", "patches", "teacher_image")

    def of_images(rows):
        return rows.reshape(few, captions, *rows.shape[1:])[:, 0]

    grouped = {
        key: rows.reshape(few, captions, *rows.shape[1:])
        for key, rows in pairs.items()
        if key in ("ids", "mlm_ids", "mlm_labels", "teacher_text")
    } | {key: of_images(pairs[key]) for key in of_image}
    pairs |= {key: np.repeat(grouped[key], captions, axis=0) for key in of_image}

    def loss_and_gradient(batch):
        def whole(trainable):
            return objective.objective(model, weights, 50.0, trainable, frozen, batch)

        return jax.jit(jax.value_and_grad(whole, has_aux=True))(trainable)

    (total, metrics), gradient = loss_and_gradient(pairs)
    if count == 1:
        (mine, found), added = loss_and_gradient(grouped)
    else:
        rows = jax.tree.map(lambda rows: rows.reshape(count, few // count, *rows.shape[1:]), grouped)
        cached = objective.grad_cached_loss_and_grad
        run = jax.jit(lambda trainable, rows: cached(model, weights, 50.0, trainable, frozen, rows))
        (mine, found), added = run(trainable, rows)
    np.testing.assert_allclose(mine, total, rtol=1e-5)
    for key in weights:
        np.testing.assert_allclose(found[key], metrics[key], rtol=1e-5, err_msg=key)
    norm = float(optax.global_norm(gradient))
    added = flatten(added)
    for path, leaf in flatten(gradient).items():
        np.testing.assert_allclose(added[path], leaf, rtol=1e-4, atol=1e-5 * norm, err_msg=path)
    assert norm > 0


def test_features_of_the_kept_patches_are_not_those_of_prompts():
    """The prompts follow the patches in the sequence, of which there are four instead of six."""
    method = METHODS["prompts"](length=2)
    model = clip.build(CONFIG, method)
    variables = jax.tree.map(jnp.asarray, tiny.random_like(clip.declare(CONFIG, method), seed=0))
    batch = masked_batch()
    found = jax.jit(lambda rows: objective.encode(model, {"filip": 1.0}, variables, rows))(batch)
    tokens = jax.jit(
        lambda rows: model["encode_image"](variables, rows["image"], all_tokens=True, patches=rows["patches"])
    )(batch)[0]
    assert tokens.shape == (ROWS, 1 + 4 + 4, 5)  # two prompts of its own, and two mapped from the texts
    np.testing.assert_allclose(found["image_tokens"], tokens[:, 1:5], rtol=1e-5, atol=1e-6)


def test_mean_over_microbatches_differs():
    """Averaging the gradients of smaller batches gives another result: the test above can fail."""
    model, weights, trainable, frozen = prepared("dm_adapter")
    batch = masked_batch()
    del batch["patches"]  # with all patches, the loads of the experts differ more between the halves
    run = jax.jit(lambda rows: objective.objective(model, weights, 50.0, trainable, frozen, rows)[1])
    whole = run(batch)
    halves = [jax.tree.map(lambda rows, at=at: rows[at : at + 6], batch) for at in (0, 6)]
    each = [run(half) for half in halves]
    for loss in ("sdm", "itc", "balance"):
        assert abs(np.mean([found[loss] for found in each]) / whole[loss] - 1) > 1e-3


@pytest.mark.parametrize(("log_scale", "scale"), [(math.log(20), 20.0), (math.log(500), 100.0)])
def test_a_learned_temperature_replaces_the_fixed_one(log_scale, scale):
    """Up to a factor of 100; its gradient is the slope of the loss, and 0 beyond."""
    rng = np.random.default_rng(0)
    feats = {key: rng.normal(size=(6, 4)).astype(np.float32) for key in ("image", "text")}
    feats["routing"] = {"visual": [], "text": []}
    batch = {"pid": np.arange(6)}
    weights = {"sdm": 1.0, "itc": 2.0}

    def loss(log_scale):
        variables = {"head": {"temperature": {"log_scale": log_scale}}}
        return objective.compute_losses(weights, 50.0, variables, feats, batch)[0]

    def fixed(scale):
        return float(objective.compute_losses(weights, scale, {}, feats, batch)[0])

    value, gradient = jax.value_and_grad(loss)(jnp.float32(log_scale))
    assert float(value) == pytest.approx(fixed(scale), rel=1e-5)
    slope = scale * (fixed(scale * 1.01) - fixed(scale / 1.01)) / (scale * (1.01 - 1 / 1.01))
    assert float(gradient) == pytest.approx(slope if scale < 100 else 0.0, rel=0.02, abs=1e-6)


LONGER = dataclasses.replace(tiny.CONFIG, context_length=9)
END, MASK = LONGER.vocab_size - 1, LONGER.vocab_size - 2
PROMPTED = {
    "prompts": ({"length": 1}, 2),  # settings, and the prompt tokens in front of the words
    "cskt": ({"prompts": 1, "direction": "to_vision"}, 1),
    "mixture": ({"prompts": {"length": 2}, "both": {"fine": {"part": "lora", "rank": 2}}}, 4),
}


def prompted(name: str, length: int):
    """Returns (model, variables, batch, prompt tokens), with captions of every length up to `length`."""
    settings, count = PROMPTED[name]
    described = LONGER, METHODS[name](**settings)
    model = clip.build(*described, heads=Heads(mlm_depth=1))
    drawn = tiny.random_like(clip.declare(*described, Heads(mlm_depth=1)), seed=0)
    variables = jax.tree.map(jnp.asarray, drawn)
    ends = range(2, length)
    batch = tiny.batch(len(ends), config=LONGER)
    ids = np.zeros((len(ends), length), np.int32)
    for row, end in zip(ids, ends, strict=True):
        row[1:end], row[end] = np.random.default_rng(end).integers(1, MASK, end - 1), END
    labels = np.where((np.arange(length) % 2 == 1) & (ids < END), ids, 0)
    labels[:, 1] = ids[:, 1]
    last = np.maximum(np.array(ends) - 1, 1)
    labels[np.arange(len(ends)), last] = ids[np.arange(len(ends)), last]
    batch |= {"ids": ids, "mlm_ids": np.where(labels, MASK, ids).astype(np.int32), "mlm_labels": labels}
    return model, variables, batch, count


def places(ids: np.ndarray, labels: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Returns (row, position, label) of each masked word that remains after shifting right by `count` and
    truncating to the context; end of text comes last where it would be pushed off."""
    size = min(ids.shape[1] + count, LONGER.context_length)
    found = []
    for row, (words, own) in enumerate(zip(ids.tolist(), labels.tolist(), strict=True)):
        sequence = [words[0], *([None] * count), *words[1:]][:size]
        of_words = [0, *([0] * count), *own[1:]][:size]
        if END not in sequence:
            of_words[-1] = 0
        found += [(row, place, label) for place, label in enumerate(of_words) if label]
    return found


@pytest.mark.parametrize("length", [LONGER.context_length, 5])
@pytest.mark.parametrize("name", PROMPTED)
def test_masked_words_are_scored_where_prompts_shift_them(name, length):
    model, variables, batch, count = prompted(name, length)
    images, _ = model["encode_image"](variables, batch["image"], all_tokens=True)
    logits = np.asarray(jax.jit(model["predict_words"])(variables, images, batch["mlm_ids"]), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    kept = places(batch["mlm_ids"], batch["mlm_labels"], count)
    dropped = (batch["mlm_labels"] != 0).sum() - len(kept)
    assert dropped > 0 if length + count > LONGER.context_length else dropped == 0
    expected = -np.mean([log_p[at] for at in kept])
    run = jax.jit(lambda batch: objective.objective(model, {"mlm": 1.0}, 50.0, variables, {}, batch)[1])
    np.testing.assert_allclose(run(batch)["mlm"], expected, rtol=1e-5)
    # Those that were dropped do not count in any part of the batch either.
    rows = len(batch["ids"]) // 2 * 2
    batch = {key: value[-rows:] for key, value in batch.items()}
    microbatches = {key: value.reshape(2, rows // 2, *value.shape[1:]) for key, value in batch.items()}
    microbatched = jax.jit(
        lambda microbatches: objective.grad_cached_loss_and_grad(
            model, {"mlm": 1.0}, 50.0, variables, {}, microbatches
        )
    )
    np.testing.assert_allclose(microbatched(microbatches)[0][1]["mlm"], run(batch)["mlm"], rtol=1e-5)


@pytest.mark.parametrize("name", PROMPTED)
def test_words_come_after_the_prompts(name):
    """The text tower is causal: another word changes the tokens from its own position on."""
    model, variables, batch, count = prompted(name, 5)
    encode = jax.jit(lambda ids: model["encode_text"](variables, ids, all_tokens=True)[0])
    ids = batch["ids"][-1:]
    before = np.asarray(encode(ids))
    for word in range(1, 4):
        other = ids.copy()
        other[0, word] = ids[0, word] % (MASK - 1) + 1
        changed = np.abs(np.asarray(encode(other)) - before)[0].max(-1) > 1e-6
        assert np.flatnonzero(changed)[0] == word + count


def test_mlm_loss_is_zero_without_masked_words():
    model, variables, batch, count = prompted("prompts", LONGER.context_length)
    labels = np.zeros_like(batch["mlm_labels"])
    labels[-1, LONGER.context_length - count] = 3
    assert not places(batch["mlm_ids"], labels, count)
    batch["mlm_labels"] = labels
    run = jax.jit(lambda batch: objective.objective(model, {"mlm": 1.0}, 50.0, variables, {}, batch)[0])
    assert run(batch) == 0
