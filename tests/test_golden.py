"""Compares with every golden bundle, from features to updated parameters.

Bundles are read from `tests/golden/` and from the folders in TPR_GOLDEN_DIR (separated as in PATH). All
sizes, settings, losses and learning rates come from the bundle itself.
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

from tests.golden_compare import (
    assert_close,
    identity_by_hand,
    logits_per_image,
    numerical_gradient,
    relative_l2,
    sigmoid_by_hand,
    worst,
)
from tpr_jax import losses, optim
from tpr_jax.models import clip
from tpr_jax.models.methods import METHODS
from tpr_jax.train import step
from tpr_jax.train.state import TrainState
from tpr_jax.weights import reference, reference_names
from tpr_jax.weights.clip import load_clip
from tpr_jax.weights.resize import resize_positions

pytestmark = pytest.mark.golden
FOLDERS = [Path(__file__).parent / "golden"]
FOLDERS += [Path(p) for p in os.environ.get("TPR_GOLDEN_DIR", "").split(os.pathsep) if p]


def is_bundle(path: Path) -> bool:
    with safe_open(path, "np") as file:
        return "method" in (file.metadata() or {})


BUNDLES = [p for f in FOLDERS for p in sorted(f.glob("**/*.safetensors")) if is_bundle(p)]


def is_hugging_face_model(folder: Path) -> bool:
    settings = folder / "config.json"
    return settings.is_file() and json.loads(settings.read_text()).get("model_type") in ("clip", "siglip")


EXPECTED = [p.parent for f in FOLDERS for p in sorted(f.glob("**/expected.safetensors"))]
HF_FOLDERS = [folder for folder in EXPECTED if is_hugging_face_model(folder)]
OPEN_CLIP_FOLDERS = [folder for folder in EXPECTED if (folder / "open_clip_config.json").is_file()]
bundles = pytest.mark.parametrize("path", BUNDLES, ids=lambda p: p.stem)


@functools.cache
def read(path: Path) -> dict:
    """Reads a bundle: its arrays by key, `args`, `size`, `method`."""
    with safe_open(path, "np") as file:
        meta = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return {
        "arrays": arrays,
        "method": meta["method"],
        "args": json.loads(meta["args"]),
        "size": json.loads(meta["size"]),
        "trainable": int(meta["trainable"]),
        "total": int(meta["total"]),
    }


def under(arrays: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def method_settings(bundle: dict) -> dict:
    """Returns the settings of the method that the shapes of the weights do not determine."""
    args, layers = bundle["args"], bundle["size"]["NL"]
    if bundle["method"] == "up_person":
        return {key: min(args[key], layers) for key in ("depth_lora", "depth_prefix", "depth_adapter")}
    return {"top_k": args["topk"]} if bundle["method"] == "dm_adapter" else {}


@functools.cache
def loaded(path: Path):
    """Loads a bundle.

    Returns:
      The bundle, the model's functions, the trainable and frozen collections, a batch, and
      `to_authors_names`, which converts trees like the trainable one to the authors' names.
    """
    bundle = read(path)
    config, method, heads, variables = reference.read(
        under(bundle["arrays"], "state/"),
        method=bundle["method"],
        image_size=tuple(bundle["size"]["img"]),
        **method_settings(bundle),
    )
    arrays = bundle["arrays"]
    batch = {
        "image": jnp.asarray(arrays["in/images_nchw"].transpose(0, 2, 3, 1)),
        "ids": jnp.asarray(arrays["in/caption_ids"], jnp.int32),
        "pid": jnp.asarray(arrays["in/pids"], jnp.int32),
    }
    batch |= {
        key: jnp.asarray(arrays[f"in/{key}"], jnp.int32)
        for key in ("mlm_ids", "mlm_labels")
        if f"in/{key}" in arrays
    }
    trainable, frozen = optim.split_model(jax.tree.map(jnp.asarray, variables), method)

    def to_authors_names(tree):
        return reference.state(tree, method, config, heads)

    return bundle, clip.build(config, method, heads=heads), trainable, frozen, batch, to_authors_names


def loss_weights(bundle: dict) -> dict:
    """Returns the losses of the bundle's recipe, with the reference's weights."""
    args = bundle["args"]
    weights = {"aux": ("balance", 0.5)}
    weights |= {name: (name, args.get(f"{name}_loss_weight", 1.0)) for name in losses.NAMES}
    return dict(weights[name] for name in args["loss_names"].split("+"))


def trainable_arrays(path: Path, prefix: str, found: dict) -> dict:
    """Returns the bundle's arrays for the trainable parameters that a computation reads.

    A bundle has all arrays of a method; of a fully trained CLIP it may have only the smaller ones.
    """
    bundle = read(path)
    dead = reference_names.DEAD[bundle["method"]]
    expected = {
        reference_names.canonical(name): array
        for name, array in under(bundle["arrays"], prefix).items()
        if not re.fullmatch(dead, name.removeprefix("base_model."))
    }
    assert set(expected) <= set(found)
    lacking = {name for name in found if name not in expected}
    if bundle["method"] == "irra":
        assert len(expected) >= len(found) / 2
        assert all(found[name].size > 64 for name in lacking)
    else:
        assert not lacking
    return expected


@bundles
def test_position_embedding_is_resized(path):
    bundle = read(path)
    size = bundle["size"]
    grid = [side // size["patch"] for side in size["img"]]
    before = bundle["arrays"]["clip/visual.positional_embedding"]
    after = resize_positions(before, (size["grid"], size["grid"]), tuple(grid))
    assert relative_l2(after, bundle["arrays"]["state/base_model.visual.positional_embedding"]) < 1e-6


def get_classifier(bundle: dict) -> dict:
    """Returns the bundle's classifier of identities, or a random one if it has none."""
    arrays, pids = bundle["arrays"], bundle["arrays"]["in/pids"]
    if "state/classifier.weight" in arrays:
        return {
            "kernel": arrays["state/classifier.weight"].T.astype(np.float64),
            "bias": arrays["state/classifier.bias"].astype(np.float64),
        }
    rng, width = np.random.default_rng(0), arrays["out/image_feats"].shape[1]
    return {"kernel": rng.normal(size=(width, 1 + pids.max())), "bias": rng.normal(size=1 + pids.max())}


def expected_loss(bundle: dict, name: str, settings: dict):
    """Returns a loss of the bundle's features and its gradient in the features of each tower.

    They come from the bundle or, for losses without code of the authors, from NumPy. Returns None if there is
    neither.
    """
    arrays, towers = bundle["arrays"], ("image", "text")
    if f"loss/{name}" in arrays:
        gradients = {tower: arrays[f"loss_grad/{name}/{tower}_feats"] for tower in towers}
        return arrays[f"loss/{name}"], gradients
    by_hand = {"id": identity_by_hand, "sigmoid": sigmoid_by_hand}.get(name)
    if by_hand is None:
        return None
    image, text = (arrays[f"out/{tower}_feats"].astype(np.float64) for tower in towers)
    of = functools.partial(by_hand, pids=arrays["in/pids"].tolist(), **settings)
    gradients = {
        "image": numerical_gradient(lambda x: of(x, text), image),
        "text": numerical_gradient(lambda x: of(image, x), text),
    }
    return of(image, text), gradients


@bundles
@pytest.mark.parametrize("name", sorted(losses.BY_NAME))
def test_losses_and_their_gradients(path, name):
    """Compares each loss of the bundle's features and its gradient; no model is needed."""
    bundle = read(path)
    arrays, settings = bundle["arrays"], get_classifier(bundle) if name == "id" else {}
    expected = expected_loss(bundle, name, settings)
    if expected is None:
        pytest.skip(f"the bundle has no value for the loss '{name}'")
    feats = [jnp.asarray(arrays[f"out/{tower}_feats"]) for tower in ("image", "text")]
    loss = functools.partial(losses.BY_NAME[name], **jax.tree.map(jnp.float32, settings))
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*feats, arrays["in/pids"])
    assert_close(value, expected[0])
    errors = {
        tower: relative_l2(gradient, expected[1][tower])
        for tower, gradient in zip(("image", "text"), gradients, strict=True)
    }
    assert worst(errors)[0] < 1e-3, errors
    if f"train/{name}_loss" in arrays and f"loss/{name}" not in arrays:
        weight = bundle["args"].get(f"{name}_loss_weight", 1.0)
        assert_close(weight * value, arrays[f"train/{name}_loss"])


@bundles
def test_features(path):
    bundle, *_, batch, _ = loaded(path)
    state = under(bundle["arrays"], "state/")
    model = reference.load(
        state, method=bundle["method"], image_size=tuple(bundle["size"]["img"]), **method_settings(bundle)
    )
    dead = reference_names.DEAD[bundle["method"]]
    unread = sum(a.size for n, a in state.items() if re.fullmatch(dead, n.removeprefix("base_model.")))
    counts = {name: bundle[name] - unread for name in ("trainable", "total")}
    assert model.num_params() == counts
    image_feats, text_feats = model.features_from_arrays(batch["image"], batch["ids"])
    assert relative_l2(image_feats, bundle["arrays"]["out/image_feats"]) < 2e-5
    assert relative_l2(text_feats, bundle["arrays"]["out/text_feats"]) < 2e-5


@bundles
def test_losses_and_gradients_of_a_training_step(path):
    bundle, model, trainable, frozen, batch, to_authors_names = loaded(path)

    def objective(trainable):
        scale = 1 / bundle["args"]["temperature"]
        return step.objective(model, loss_weights(bundle), scale, trainable, frozen, batch)

    gradient, metrics = jax.jit(jax.grad(objective, has_aux=True))(trainable)
    names = {name: f"{name}_loss" for name in losses.NAMES} | {"balance": "aux_loss", "loss": "total"}
    expected = under(bundle["arrays"], "train/")
    assert {names[name] for name in [*loss_weights(bundle), "loss"]} == set(expected)
    for ours in [*loss_weights(bundle), "loss"]:
        assert_close(metrics[ours], expected[names[ours]], ours)
    found = to_authors_names(gradient)
    expected = trainable_arrays(path, "grad/", found)
    errors = {name: relative_l2(found[name], array) for name, array in expected.items()}
    assert worst(errors)[0] < 1e-3, worst(errors)


@bundles
def test_four_optimizer_steps(path):
    """Compares the losses before each step, the learning rates, and the change of each parameter."""
    bundle, model, trainable, frozen, batch, to_authors_names = loaded(path)
    args, arrays = bundle["args"], bundle["arrays"]
    rate = optim.schedule(
        args["lr"],
        kind=args["lrscheduler"],
        warmup_epochs=args["warmup_epochs"],
        num_epochs=args["num_epoch"],
        steps_per_epoch=1,
        per_step=False,
        warmup_factor=args["warmup_factor"],
    )
    assert args["weight_decay_bias"] == 0
    # UP-Person's code has a single learning rate and ignores its arguments.
    bias_factor = 1.0 if bundle["method"] == "up_person" else args["bias_lr_factor"]
    groups = optim.parameter_groups(args["weight_decay"], bias_factor, args["lr_factor"])
    optimizer = optim.adam(rate, trainable, groups, b1=args["alpha"], b2=args["beta"])
    state = TrainState.create(optimizer, jax.tree.map(jnp.copy, trainable))
    before = to_authors_names(state.trainable)
    update = jax.jit(
        functools.partial(
            step.train_step,
            model=model,
            optimizer=optimizer,
            weights=loss_weights(bundle),
            scale=1 / args["temperature"],
        )
    )
    for i, expected_rate in enumerate(arrays["steps/lr_group0"]):
        assert_close(rate(i), expected_rate)
        state, metrics = update(state, frozen, batch)
        assert_close(metrics["loss"], arrays[f"steps/loss_{i}"])
    after = to_authors_names(state.trainable)
    expected = trainable_arrays(path, "steps/param/", after)
    errors = {
        name: relative_l2(after[name] - before[name], array - before[name])
        for name, array in expected.items()
    }
    assert worst(errors)[0] < 2e-3, worst(errors)


def encode(config, params: dict, tower: str, rows: np.ndarray) -> jax.Array:
    """Returns the unnormalized features of normalized images or of ids."""
    encoder = clip.build(config, METHODS["zero_shot"]())[f"encode_{tower}"]
    return jax.jit(encoder)({"params": jax.tree.map(jnp.asarray, params)}, jnp.asarray(rows))[0]


@pytest.mark.parametrize("folder", HF_FOLDERS, ids=lambda p: p.name)
def test_port_of_hugging_faces_models(folder):
    """Compares with the features that transformers' CLIPModel or SiglipModel computed for a folder."""
    with safe_open(folder / "expected.safetensors", "np") as file:
        expected = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config, params = load_clip(str(folder))
    image_feats = encode(config, params, "image", expected["in/images_nchw"].transpose(0, 2, 3, 1))
    text_feats = encode(config, params, "text", expected["in/input_ids"].astype(np.int32))
    image_embeds, text_embeds = losses.l2_normalize(image_feats), losses.l2_normalize(text_feats)
    found = {
        "out/image_feats": image_feats,
        "out/text_feats": text_feats,
        "out/image_embeds": image_embeds,
        "out/text_embeds": text_embeds,
    }
    found["out/logits_per_image"] = jnp.exp(config.logit_scale) * image_embeds @ text_embeds.T
    found["out/logits_per_image"] += config.logit_bias or 0
    for name in [name for name in expected if re.fullmatch("in/[a-z]+_images_nchw", name)]:
        images = expected[name].transpose(0, 2, 3, 1)
        resized, params = load_clip(str(folder), images.shape[1:3])
        prefix = name.removeprefix("in/").removesuffix("images_nchw")
        found[f"out/{prefix}image_feats"] = encode(resized, params, "image", images)
    assert found.keys() == {name for name in expected if re.fullmatch("out/.*(feats|embeds|per_image)", name)}
    expected["out/logits_per_image"] = logits_per_image(expected)
    errors = {name: relative_l2(array, expected[name]) for name, array in found.items()}
    assert worst(errors)[0] < 1e-5, errors


@pytest.mark.parametrize("folder", OPEN_CLIP_FOLDERS, ids=lambda p: p.name)
def test_port_of_openclips_clip(folder):
    """Compares with the features that the package open_clip computed for a folder."""
    with safe_open(folder / "expected.safetensors", "np") as file:
        expected = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config, params = load_clip(str(folder))
    model = clip.build(config, METHODS["zero_shot"]())
    variables = {"params": jax.tree.map(jnp.asarray, params)}
    images = jnp.asarray(expected["in/images_nchw"].transpose(0, 2, 3, 1))
    image_feats, _ = jax.jit(model["encode_image"])(variables, images)
    text_feats, _ = jax.jit(model["encode_text"])(variables, jnp.asarray(expected["in/input_ids"], jnp.int32))
    found = {"out/image_feats": image_feats, "out/text_feats": text_feats}
    errors = {name: relative_l2(array, expected[name]) for name, array in found.items()}
    assert worst(errors)[0] < 1e-5, errors
    preprocess = json.loads((folder / "open_clip_config.json").read_text()).get("preprocess_cfg", {})
    np.testing.assert_allclose(config.image_mean, preprocess.get("mean", config.image_mean))
    np.testing.assert_allclose(config.image_std, preprocess.get("std", config.image_std))
