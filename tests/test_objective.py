"""A batch that goes through the towers in parts gives the losses and gradients of the whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clip as tiny
from tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)

from tpr_jax import losses, objective, optim
from tpr_jax.models import clip
from tpr_jax.models.heads import NO_HEADS, Heads
from tpr_jax.models.methods import METHODS
from tpr_jax.trees import flatten

CONFIG = dataclasses.replace(tiny.CONFIG, text_layers=1)
ROWS = 12


def masked_batch() -> dict:
    """The number of masked words differs between the parts of the batch."""
    batch = tiny.batch(ROWS)
    ids = batch["ids"].copy()
    ids[: ROWS // 2, 1] = CONFIG.vocab_size - 2
    ids[-1, 1] = CONFIG.vocab_size - 2
    return {**batch, "mlm_ids": ids, "mlm_labels": np.where(batch["ids"] != ids, batch["ids"], 0)}


def prepared(name: str):
    """(model, weights of all losses that the method can have, trainable, frozen)."""
    method = METHODS[name](**(tiny.DM_SETTINGS if name == "dm_adapter" else tiny.SETTINGS.get(name, {})))
    used = [loss for loss in losses.NAMES if loss not in ("mlm", "id") or name == "irra"]
    weights = {loss: 1.0 + i / 8 for i, loss in enumerate(used) if loss != "balance" or method.mixtures}
    model = clip.build(CONFIG, method, heads=Heads(ROWS, mlm_depth=1) if name == "irra" else NO_HEADS)
    variables = tiny.random_like(jax.eval_shape(model["init"], jax.random.key(0)), seed=0)
    return model, weights, *optim.split_model(jax.tree.map(jnp.asarray, variables), method)


@pytest.mark.parametrize(("name", "count"), [("dm_adapter", 3), ("dm_adapter", ROWS), ("irra", 4)])
def test_in_parts_as_whole(name, count):
    model, weights, trainable, frozen = prepared(name)
    batch = masked_batch()

    def whole(trainable):
        return objective.objective(model, weights, 50.0, trainable, frozen, batch)

    (total, metrics), gradient = jax.jit(jax.value_and_grad(whole, has_aux=True))(trainable)
    parts = jax.tree.map(lambda rows: rows.reshape(count, ROWS // count, *rows.shape[1:]), batch)
    in_parts = jax.jit(
        lambda trainable, parts: objective.in_parts(model, weights, 50.0, trainable, frozen, parts)
    )
    (mine, found), added = in_parts(trainable, parts)
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


def test_the_mean_over_parts_would_be_another():
    """What adding up the gradients of smaller batches gives: the comparison above can fail."""
    model, weights, trainable, frozen = prepared("dm_adapter")
    batch = masked_batch()
    run = jax.jit(lambda rows: objective.objective(model, weights, 50.0, trainable, frozen, rows)[1])
    whole = run(batch)
    halves = [jax.tree.map(lambda rows, at=at: rows[at : at + 6], batch) for at in (0, 6)]
    each = [run(half) for half in halves]
    for loss in ("sdm", "itc", "balance"):
        assert abs(np.mean([found[loss] for found in each]) / whole[loss] - 1) > 1e-3
