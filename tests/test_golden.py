"""Faithfulness: every golden bundle, from features to updated parameters, at the agreed tolerances.

Bundles are read from `tests/golden/` and from the folders named in TPR_GOLDEN_DIR (separated as PATH is). All
sizes, settings, losses and rates come from the bundle itself.
"""

import functools
import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from tpr_jax import losses, optim, step
from tpr_jax.models import clip
from tpr_jax.models.methods import METHODS
from tpr_jax.weights import reference
from tpr_jax.weights.clip import load_clip
from tpr_jax.weights.resize import resize_positions

FOLDERS = [Path(__file__).parent / "golden"]
FOLDERS += [Path(p) for p in os.environ.get("TPR_GOLDEN_DIR", "").split(os.pathsep) if p]


def is_bundle(path: Path) -> bool:
    with safe_open(path, "np") as file:
        return "method" in (file.metadata() or {})


BUNDLES = [p for f in FOLDERS for p in sorted(f.glob("**/*.safetensors")) if is_bundle(p)]
HF_FOLDERS = [p.parent for f in FOLDERS for p in sorted(f.glob("**/expected.safetensors"))]
bundles = pytest.mark.parametrize("path", BUNDLES, ids=lambda p: p.stem)


def relative_l2(found, expected) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))


@functools.cache
def read(path: Path) -> dict:
    """A bundle: its arrays by key, `args`, `size`, `method`."""
    with safe_open(path, "np") as file:
        meta = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return {
        "arrays": arrays,
        "method": meta["method"],
        "args": json.loads(meta["args"]),
        "size": json.loads(meta["size"]),
    }


def under(arrays: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


@functools.cache
def loaded(path: Path):
    """(bundle, model functions, Method, variables, batch)."""
    bundle = read(path)
    if bundle["method"] not in reference.PARTS or bundle["method"] not in METHODS:
        pytest.skip(f"the method '{bundle['method']}' is not implemented yet")
    settings = {"top_k": bundle["args"]["topk"]} if "topk" in bundle["args"] else {}
    config, method, variables = reference.read(
        under(bundle["arrays"], "state/"),
        method=bundle["method"],
        image_size=tuple(bundle["size"]["img"]),
        **settings,
    )
    batch = {
        "image": jnp.asarray(bundle["arrays"]["in/images_nchw"].transpose(0, 2, 3, 1)),
        "ids": jnp.asarray(bundle["arrays"]["in/caption_ids"], jnp.int32),
        "pid": jnp.asarray(bundle["arrays"]["in/pids"], jnp.int32),
    }
    return bundle, clip.build(config, method), method, jax.tree.map(jnp.asarray, variables), batch


def loss_weights(bundle: dict) -> dict:
    """The losses that the bundle's recipe names, with the reference's weights."""
    names = {"sdm": ("sdm", 1.0), "aux": ("balance", 0.5)}
    return dict(names[name] for name in bundle["args"]["loss_names"].split("+"))


@bundles
def test_position_embedding_is_resized(path):
    bundle = read(path)
    size = bundle["size"]
    grid = [side // size["patch"] for side in size["img"]]
    before = bundle["arrays"]["clip/visual.positional_embedding"]
    after = resize_positions(before, (size["grid"], size["grid"]), tuple(grid))
    assert relative_l2(after, bundle["arrays"]["state/base_model.visual.positional_embedding"]) < 1e-6


@bundles
@pytest.mark.parametrize("name", sorted(losses.BY_NAME))
def test_losses_and_their_gradients(path, name):
    """Each loss of the bundle's features, and its gradient in them; no model is needed."""
    arrays = read(path)["arrays"]
    if f"loss/{name}" not in arrays:
        pytest.skip(f"the bundle has no value for the loss '{name}'")
    feats = [jnp.asarray(arrays[f"out/{tower}_feats"]) for tower in ("image", "text")]
    value, gradients = jax.value_and_grad(losses.BY_NAME[name], argnums=(0, 1))(*feats, arrays["in/pids"])
    np.testing.assert_allclose(value, arrays[f"loss/{name}"], rtol=1e-5)
    for tower, gradient in zip(("image", "text"), gradients, strict=True):
        assert relative_l2(gradient, arrays[f"loss_grad/{name}/{tower}_feats"]) < 1e-3


@bundles
def test_features(path):
    bundle, *_, batch = loaded(path)
    settings = {"top_k": bundle["args"]["topk"]} if "topk" in bundle["args"] else {}
    model = reference.load(
        under(bundle["arrays"], "state/"),
        method=bundle["method"],
        image_size=tuple(bundle["size"]["img"]),
        **settings,
    )
    assert model.num_params()["trainable"] == sum(a.size for a in under(bundle["arrays"], "grad/").values())
    image_feats, text_feats = model.features_from_arrays(batch["image"], batch["ids"])
    assert relative_l2(image_feats, bundle["arrays"]["out/image_feats"]) < 2e-5
    assert relative_l2(text_feats, bundle["arrays"]["out/text_feats"]) < 2e-5


@bundles
def test_losses_and_gradients_of_a_training_step(path):
    bundle, model, method, variables, batch = loaded(path)
    trainable, frozen = optim.split_collections(variables, method.trainable)
    assert sum(x.size for x in jax.tree.leaves(trainable)) == sum(
        a.size for a in under(bundle["arrays"], "grad/").values()
    )

    def objective(trainable):
        scale = 1 / bundle["args"]["temperature"]
        return step.objective(model, loss_weights(bundle), scale, trainable, frozen, batch)

    gradient, metrics = jax.jit(jax.grad(objective, has_aux=True))(trainable)
    theirs = {"sdm": "sdm_loss", "balance": "aux_loss", "loss": "total"}
    expected = under(bundle["arrays"], "train/")
    assert {theirs[name] for name in [*loss_weights(bundle), "loss"]} == set(expected)
    for ours, name in theirs.items():
        if name in expected:
            np.testing.assert_allclose(metrics[ours], expected[name], rtol=1e-5, err_msg=name)
    found = reference.state(gradient, bundle["method"])
    expected = under(bundle["arrays"], "grad/")
    assert set(found) == set(expected)
    worst = max((relative_l2(found[name], array), name) for name, array in expected.items())
    assert worst[0] < 1e-3, worst


@bundles
def test_four_optimiser_steps(path):
    """Losses before each step, the rates used, and the change of each parameter."""
    bundle, model, method, variables, batch = loaded(path)
    args, arrays = bundle["args"], bundle["arrays"]
    trainable, frozen = optim.split_collections(variables, method.trainable)
    rate = optim.schedule(
        args["lr"],
        kind=args["lrscheduler"],
        warmup_epochs=args["warmup_epochs"],
        num_epochs=args["num_epoch"],
        steps_per_epoch=1,
        per_step=False,
        warmup_factor=args["warmup_factor"],
    )
    bias = (r".*/bias", args["bias_lr_factor"], args["weight_decay_bias"])
    groups = (bias, (r".*", 1.0, args["weight_decay"]))
    optimiser = optim.adam(rate, trainable, groups, b1=args["alpha"], b2=args["beta"])
    state = step.init_state(optimiser, jax.tree.map(jnp.copy, trainable))
    before = reference.state(state["trainable"], bundle["method"])
    update = jax.jit(
        functools.partial(step.train_step, model, optimiser, loss_weights(bundle), 1 / args["temperature"])
    )
    for i, expected_rate in enumerate(arrays["steps/lr_group0"]):
        np.testing.assert_allclose(rate(i), expected_rate, rtol=1e-5)
        state, metrics = update(state, frozen, batch)
        np.testing.assert_allclose(metrics["loss"], arrays[f"steps/loss_{i}"], rtol=1e-5)
    after = reference.state(state["trainable"], bundle["method"])
    expected = under(arrays, "steps/param/")
    # What no computation reads is in the authors' state but not in ours.
    dead = reference.DEAD[bundle["method"]]
    expected = {n: a for n, a in expected.items() if not re.fullmatch(dead, n.removeprefix("base_model."))}
    assert set(after) == set(expected)
    worst = max(
        (relative_l2(after[name] - before[name], array - before[name]), name)
        for name, array in expected.items()
    )
    assert worst[0] < 2e-3, worst


@pytest.mark.parametrize("folder", HF_FOLDERS, ids=lambda p: p.name)
def test_port_of_hugging_faces_clip(folder):
    """Features of a folder that transformers' PyTorch CLIPModel wrote and computed."""
    with safe_open(folder / "expected.safetensors", "np") as file:
        expected = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config, params = load_clip(str(folder))
    model = clip.build(config, METHODS["zero_shot"]())
    variables = {"params": jax.tree.map(jnp.asarray, params)}
    images = jnp.asarray(expected["in/images_nchw"].transpose(0, 2, 3, 1))
    image_feats, _ = model["encode_image"](variables, images)
    text_feats, _ = model["encode_text"](variables, jnp.asarray(expected["in/input_ids"], jnp.int32))
    image_embeds, text_embeds = losses.l2_normalise(image_feats), losses.l2_normalise(text_feats)
    found = {
        "out/image_feats": image_feats,
        "out/text_feats": text_feats,
        "out/image_embeds": image_embeds,
        "out/text_embeds": text_embeds,
    }
    # The file holds this matrix in the memory order of its transpose, as CLIPModel makes it: text rows first.
    logits = np.asarray(jnp.exp(config.logit_scale) * image_embeds @ text_embeds.T)
    stored = expected["out/logits_per_image"]
    found["out/logits_per_image"] = np.ascontiguousarray(logits.T).reshape(stored.shape)
    if relative_l2(logits, stored) < relative_l2(found["out/logits_per_image"], stored):
        found["out/logits_per_image"] = logits
    for name, array in found.items():
        assert relative_l2(array, expected[name]) < 1e-5, name
