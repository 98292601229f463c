"""One update: what changes, what is reported, and what happens if it is not finite."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny_clip as tiny
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax import losses, optim
from tpr_jax.distributed.sharding import make_mesh, replicate
from tpr_jax.errors import UserError
from tpr_jax.models import clip
from tpr_jax.models.config import NO_HEADS, Heads
from tpr_jax.models.matmul import mesh_platform
from tpr_jax.models.methods import METHODS, dm_adapter
from tpr_jax.train import step
from tpr_jax.train.state import TrainState
from tpr_jax.utils.trees import flatten, merge

CONFIG = dataclasses.replace(tiny.CONFIG, text_layers=1)
WEIGHTS = {"sdm": 1.0, "itc": 0.25, "balance": 0.5}
SCALE = 20.0
RATE = 0.01


def start(method) -> tuple[dict, dict]:
    """Returns (trainable, frozen) of random variables."""
    variables = tiny.random_like(clip.declare(CONFIG, method), seed=0)
    return optim.split_collections(variables, method.trainable, method.tuned)


@functools.cache
def compiled(name: str = "dm_adapter"):
    """Returns (jitted step, trainable, frozen, optimizer, model), compiled once for all tests."""
    method = dm_adapter(**tiny.DM_SETTINGS) if name == "dm_adapter" else METHODS[name]()
    weights = WEIGHTS if name == "dm_adapter" else {"sdm": 1.0}
    model, (trainable, frozen) = clip.build(CONFIG, method), start(method)
    optimizer = optax.sgd(RATE, momentum=0.9)
    return (
        step.jit_train_step(model, optimizer, weights, SCALE, make_mesh(), dtype="float32"),
        trainable,
        frozen,
        optimizer,
        model,
    )


@functools.cache
def encoded():
    """Returns ((image features, routing), (text features, routing)) of 6 pairs with the first weights."""
    _, trainable, frozen, _, model = compiled()
    variables, batch = merge(frozen, trainable), tiny.batch(6)
    return [
        jax.jit(model[name])(variables, batch[key])
        for name, key in (("encode_image", "image"), ("encode_text", "ids"))
    ]


def first_state(name: str = "dm_adapter") -> TrainState:
    """Returns a new state each time, since a step donates the memory of its state."""
    _, trainable, _, optimizer, _ = compiled(name)
    return replicate(make_mesh(), TrainState.create(optimizer, jax.tree.map(np.copy, trainable)))


def floats(batch: dict) -> dict:
    """Returns the batch with normalized floats, in which a pixel may be NaN."""
    return {**batch, "image": np.array(clip.normalize(batch["image"]))}


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b)))


def copied(tree):
    return jax.tree.map(np.array, tree)


def test_metrics_are_the_weighted_losses_of_the_features():
    update, _, frozen, _, _ = compiled()
    batch = tiny.batch(6)
    _, metrics = update(first_state(), frozen, floats(batch))
    (images, image_routing), (texts, text_routing) = encoded()
    expected = {
        "sdm": losses.sdm(images, texts, batch["pid"], scale=SCALE),
        "itc": 0.25 * losses.itc(images, texts, batch["pid"], scale=SCALE),
        "balance": 0.5 * sum(block["balance"] for block in [*image_routing, *text_routing]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(metrics["loss"], sum(expected.values()), rtol=1e-4)
    assert metrics["bad_step"] == -1


def test_routing_statistics():
    update, trainable, frozen, _, _ = compiled()
    _, metrics = update(first_state(), frozen, floats(tiny.batch(6)))
    for tower in ("visual", "text"):
        share = np.asarray(metrics[f"routing/{tower}/load"])
        assert share.shape == (3,) and (share >= 0).all()
        np.testing.assert_allclose(share.sum(), 1, rtol=1e-6)
        alphas = [block["beside_mlp"]["router"]["alpha"] for block in trainable["moe"][tower].values()]
        np.testing.assert_allclose(metrics[f"routing/{tower}/alpha"], np.mean(alphas), rtol=1e-5)
        assert 0 < metrics[f"routing/{tower}/balance"] < 3
    assert "routing/visual/load" not in update_of("full_finetune")[1]


@functools.cache
def update_of(name):
    """Returns (new state, metrics) of the first step of a method."""
    update, _, frozen, _, _ = compiled(name)
    new, metrics = update(first_state(name), frozen, floats(tiny.batch(6)))
    return copied(new), copied(metrics)


@pytest.mark.parametrize(
    ("name", "collections"),
    [("dm_adapter", {"moe"}), ("full_finetune", {"params"}), ("layer_norm", {"params"})],
)
def test_state_holds_the_trainable_leaves_and_all_change(name, collections):
    _, trainable, frozen, _, _ = compiled(name)
    new, metrics = update_of(name)
    assert set(new.trainable) == collections
    assert not set(flatten(new.trainable)) & set(flatten(frozen))
    assert (new.step, new.bad_step) == (1, -1)
    still = [
        optim.leaf_path(path)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(new.trainable), jax.tree.leaves(trainable), strict=True
        )
        if np.array_equal(a, b)
    ]
    assert still == []
    # Plain SGD's first change is -rate * gradient, whose norm was reported.
    change = jax.tree.map(lambda a, b: (a - b) / RATE, new.trainable, trainable)
    norm = np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(change)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-2)


def test_loss_decreases():
    update, _, frozen, _, _ = compiled()
    state, found = first_state(), []
    for _ in range(12):
        state, metrics = update(state, frozen, floats(tiny.batch(6)))
        found.append(float(metrics["loss"]))
    assert state.step == 12 and found[-1] < found[0] - 0.1


def test_non_finite_loss_stops_all_updates():
    """The state stays the last good one and records the step; later good batches do not change it."""
    update, _, frozen, _, _ = compiled()
    good = floats(tiny.batch(6))
    bad = {**good, "image": good["image"].copy()}
    bad["image"][2, 3, 4, 1] = np.nan
    state, _ = update(first_state(), frozen, good)
    state, _ = update(state, frozen, good)
    kept = copied(state)
    state, metrics = update(state, frozen, bad)
    assert not np.isfinite(metrics["loss"]) and metrics["bad_step"] == 2
    for batch in (good, bad, good):
        assert (state.step, state.bad_step) == (2, 2)
        assert same(state.trainable, kept.trainable) and same(state.opt_state, kept.opt_state)
        state, metrics = update(state, frozen, batch)
        assert metrics["bad_step"] == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.trainable))


def test_non_finite_gradient_stops_all_updates():
    """The derivative of a square root at 0 is infinite, its value is not."""

    def encode(variables, x, all_tokens=False, patches=None):
        return jnp.sqrt(variables["moe"]["w"]) * x, []

    model = {"encode_image": encode, "encode_text": encode}
    optimizer = optax.sgd(1.0)
    state = TrainState.create(optimizer, {"moe": {"w": jnp.zeros(2)}})
    batch = {"image": jnp.ones((2, 2)), "ids": jnp.ones((2, 2)), "pid": jnp.arange(2)}
    update = jax.jit(
        functools.partial(
            step.train_step, model=model, optimizer=optimizer, weights={"triplet": 1.0}, scale=1.0
        )
    )
    new, metrics = update(state, {}, batch)
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["grad_norm"])
    assert (new.step, new.bad_step) == (0, 0)
    np.testing.assert_array_equal(new.trainable["moe"]["w"], [0, 0])


DIVIDES_BY_0 = optax.adam(1.0, eps=0.0)
ALL_MEAN = optax.adam(1.0, b1=1.0)
SPOILS_ITS_STATE = optax.GradientTransformation(
    lambda params: {"seen": jnp.zeros(())},
    lambda gradient, state, params=None: (gradient, {"seen": jnp.inf * jnp.ones(())}),
)


@pytest.mark.parametrize(
    "optimizer", [DIVIDES_BY_0, ALL_MEAN, SPOILS_ITS_STATE], ids=["eps=0", "b1=1", "state alone"]
)
def test_non_finite_update_stops_all_updates(optimizer):
    """Loss and gradient are finite, but the new weights or optimizer state are not: the old ones stay."""

    def encode(variables, x, all_tokens=False, patches=None):
        return (variables["moe"]["w"] + 0 * variables["moe"]["still"]) * x, []

    model = {"encode_image": encode, "encode_text": encode}
    state = TrainState.create(optimizer, {"moe": {"w": jnp.arange(1.0, 3), "still": jnp.ones(2)}})
    batch = {"image": jnp.array([[1.0, 2], [3, 1]]), "ids": jnp.array([[2.0, 1], [1, 1]])}
    batch["pid"] = jnp.arange(2)
    update = jax.jit(
        functools.partial(
            step.train_step, model=model, optimizer=optimizer, weights={"triplet": 1.0}, scale=1.0
        )
    )
    new, metrics = update(state, {}, batch)
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]) and metrics["grad_norm"] > 0
    assert (new.step, new.bad_step) == (0, 0)
    assert same(new.trainable, state.trainable) and same(new.opt_state, state.opt_state)


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_a_program_for_other_devices_knows_them(monkeypatch, backend):
    """One CPU needs no mesh; a TPU does, and what is only described, such as a GPU."""
    asked = []
    function = lambda x: asked.append(mesh_platform()) or x  # noqa: E731 (compared by identity)
    abstract = jax.sharding.AbstractMesh(
        (1,), ("data",), abstract_device=jax.sharding.AbstractDevice("H100", 132, platform="gpu")
    )
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    for platform, wanted in ((backend, None if backend == "cpu" else "gpu"), ("gpu", "gpu")):
        devices = np.array([SimpleNamespace(platform=platform)])
        mesh = SimpleNamespace(size=1, devices=devices, abstract_mesh=abstract)
        jax.eval_shape(step.on_mesh(function, mesh), jnp.ones(3))
        assert asked.pop() == wanted


def test_encoders_return_the_features_of_the_model():
    _, trainable, frozen, _, model = compiled()
    variables, batch = merge(frozen, trainable), tiny.batch(6)
    encoders = step.jit_encoders(model, make_mesh(), dtype="float32")
    for encode, key, (expected, _) in zip(encoders, ("image", "ids"), encoded(), strict=True):
        feats = encode(variables, batch[key])
        assert feats.shape == (6, CONFIG.embed_dim) and feats.dtype == jnp.float32
        np.testing.assert_allclose(feats, expected, rtol=1e-4, atol=1e-5)


IRRA = Heads(num_classes=5, mlm_depth=1)


def words(batch: dict) -> dict:
    """Returns the batch with its second word masked, for the loss 'mlm'."""
    masked = batch["ids"].copy()
    masked[:, 1] = CONFIG.vocab_size - 2
    return {**batch, "mlm_ids": masked, "mlm_labels": np.where(batch["ids"] != masked, batch["ids"], 0)}


def one_objective(weights: dict, batch: dict, heads=NO_HEADS, name="zero_shot", dtype="float32"):
    """Returns ((loss, metrics), variables, model) with random variables; nothing is trained."""
    method = METHODS[name](**tiny.SETTINGS.get(name, {}))
    model = clip.build(CONFIG, method, dtype, heads)
    variables = tiny.random_like(clip.declare(CONFIG, method, heads), seed=0)
    found = jax.jit(lambda v, b: step.objective(model, weights, SCALE, v, {}, b))(variables, batch)
    return found, variables, model


def test_losses_with_heads():
    """ID from the features by hand; MLM's logits from the masked ids, scored where there is a label."""
    batch = words(tiny.batch(6))
    weights = {"id": 2.0, "mlm": 0.5, "sdm": 1.0}
    (total, metrics), variables, model = one_objective(weights, batch, IRRA)
    images, _ = model["encode_image"](variables, batch["image"], all_tokens=True)
    texts, _ = model["encode_text"](variables, batch["ids"])
    head = variables["head"]["classifier"]
    by_hand = 0.0
    for feats in (images[:, 0], texts):
        logits = np.asarray(feats, np.float64) @ head["kernel"] + head["bias"]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        by_hand -= log_p[np.arange(6), batch["pid"]].mean() / 2
    np.testing.assert_allclose(metrics["id"], 2 * by_hand, rtol=1e-4)
    logits = np.asarray(model["predict_words"](variables, images, batch["mlm_ids"]), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows = np.argwhere(batch["mlm_labels"])
    scored = np.mean([log_p[i, j, batch["mlm_labels"][i, j]] for i, j in rows])
    np.testing.assert_allclose(metrics["mlm"], -0.5 * scored, rtol=1e-4)
    np.testing.assert_allclose(total, metrics["id"] + metrics["mlm"] + metrics["sdm"], rtol=1e-6)
    # The features are the same as without the heads.
    expected = losses.sdm(images[:, 0], texts, batch["pid"], scale=SCALE)
    np.testing.assert_allclose(metrics["sdm"], expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["zero_shot", "prompts"])
def test_late_interaction_compares_patches_and_words(name):
    """The prompts of both towers are neither; the features of the other losses are the same."""
    batch, weights = tiny.batch(6), {"filip": 2.0, "sdm": 1.0}
    (_, metrics), variables, model = one_objective(weights, batch, name=name)
    (_, alone), _, _ = one_objective({"sdm": 1.0}, batch, name=name)
    np.testing.assert_allclose(metrics["sdm"], alone["sdm"], rtol=1e-4)
    images, _ = model["encode_image"](variables, batch["image"], all_tokens=True)
    texts, _ = model["encode_text"](variables, batch["ids"], all_tokens=True)
    rows, columns = CONFIG.grid
    ends = batch["ids"].argmax(1)
    count = 2 * tiny.SETTINGS["prompts"]["length"] if name == "prompts" else 0  # its own and the mapped ones
    words = np.zeros(texts.shape[:2], np.float32)
    for row, end in zip(words, ends, strict=True):
        row[1 + count : min(count + end, CONFIG.context_length - 1)] = 1
    expected = 2 * losses.filip(images[:, 1 : 1 + rows * columns], texts, words, scale=SCALE)
    np.testing.assert_allclose(metrics["filip"], expected, rtol=1e-4)


def test_losses_with_heads_in_bfloat16():
    """The heads' weights are float32 and the towers' tokens bfloat16: all come together."""
    batch, weights = words(tiny.batch(6)), {"id": 1.0, "mlm": 1.0}
    (_, exact), _, _ = one_objective(weights, batch, IRRA)
    (_, rounded), _, _ = one_objective(weights, batch, IRRA, dtype="bfloat16")
    for name in weights:
        np.testing.assert_allclose(rounded[name], exact[name], rtol=0.1, err_msg=name)


@pytest.mark.parametrize(
    ("weights", "batch", "heads", "told"),
    [
        ({"sdn": 1.0}, tiny.batch(6), NO_HEADS, "'sdn' needs another name: choose from sdm, itc"),
        ({"mlm": 1.0}, tiny.batch(6), IRRA, "'mlm' needs mlm_ids"),
        ({"mlm": 1.0}, words(tiny.batch(6)), NO_HEADS, "'mlm' needs its head"),
        ({"id": 1.0}, tiny.batch(6), NO_HEADS, "'id' needs a classifier among heads"),
        ({"balance": 1.0}, tiny.batch(6), NO_HEADS, "'balance' needs a mixture of experts"),
    ],
    ids=["unknown", "ids", "head", "classifier", "mixture"],
)
def test_rejects_a_loss_without_what_it_needs(weights, batch, heads, told):
    with pytest.raises(UserError, match=told):
        one_objective(weights, batch, heads)


def test_compile_in_background_computes_the_same():
    update, _, frozen, _, _ = compiled()
    state, batch = first_state(), replicate(make_mesh(), tiny.batch(6))
    ahead = step.compile_in_background(update, state, replicate(make_mesh(), frozen), batch)
    expected = copied(update(first_state(), frozen, batch))
    for _ in range(2):  # each call donates its state, so it gets a new one
        assert same(copied(ahead(first_state(), replicate(make_mesh(), frozen), batch)), expected)


def test_compile_error_is_raised_by_the_first_call():
    def refuses(x):
        raise UserError("not this one")

    ahead = step.compile_in_background(jax.jit(refuses), jnp.zeros(3))
    with pytest.raises(UserError, match="not this one"):
        ahead(jnp.zeros(3))


def test_small_arrays_of_one_shape_and_type_are_stacked(monkeypatch):
    monkeypatch.setattr(step, "MAX_STACKED", 6)
    tree = {
        "a": jnp.ones((2, 2)),
        "b": jnp.zeros((2, 2)),
        "c": jnp.ones((2, 2), jnp.bfloat16),
        "d": jnp.ones(3),
        "large": [jnp.ones((2, 3)), jnp.ones((2, 3))],
    }
    shapes = [(leaf.shape, leaf.dtype.name) for leaf in step._stack_small(tree)]
    assert shapes == [
        ((2, 2, 2), "float32"),
        ((1, 2, 2), "bfloat16"),
        ((1, 3), "float32"),
        *[((1, 2, 3), "float32")] * 2,
    ]
