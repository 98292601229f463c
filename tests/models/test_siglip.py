"""SigLIP's towers and the methods on them, against plain NumPy and by their gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_clip, tiny_siglip
from tests.leaves import shapes_of
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tests.tiny_siglip import CONFIG
from tpr_jax.models import clip
from tpr_jax.models.clip import declare
from tpr_jax.models.methods import METHODS, prompts, zero_shot
from tpr_jax.models.petl.prompts import prompt_tokens
from tpr_jax.optim import split_model

SETTINGS = tiny_clip.SETTINGS | {
    "dm_adapter": tiny_clip.DM_SETTINGS,
    "up_person": {"rank": 3, "prefix": 2, "reduction": 2},  # wide enough that no ReLU is dead
    "mixture": {"both": {"fine": {"part": "lora", "rank": 2}}, "tuned": ("text/proj/bias", "visual/pool/.*")},
}


def relative(found, expected) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@functools.cache
def variables(method=None):
    """Returns random variables with which every part has an effect."""
    return tiny_clip.random_like(declare(CONFIG, method or zero_shot()), seed=0)


def encode(method, variables, rows, tower, **settings):
    """Returns the features of one tower; `settings` are those of `clip.build` and of the encoder."""
    all_tokens = settings.pop("all_tokens", False)
    model = clip.build(CONFIG, method, **settings)
    key = {"image": "image", "text": "ids"}[tower]
    run = jax.jit(lambda v, x: model[f"encode_{tower}"](v, x, all_tokens=all_tokens)[0])
    return np.asarray(run(variables, rows[key]))


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def test_both_towers_by_hand():
    rows, params = tiny_siglip.batch(2), float64(variables()["params"])
    pixels = rows["image"] / 127.5 - 1  # the mean and std are 0.5
    expected = [tiny_siglip.image_feature(image, params["visual"]) for image in pixels]
    assert relative(encode(zero_shot(), variables(), rows, "image"), np.stack(expected)) < 1e-5
    expected = [tiny_siglip.text_feature(ids, params["text"]) for ids in rows["ids"]]
    assert relative(encode(zero_shot(), variables(), rows, "text"), np.stack(expected)) < 1e-5


def test_kept_patches_are_those_of_a_smaller_image():
    """The upper four of six patches are an image without its lowest row of patches."""
    rows, params = tiny_siglip.batch(2), variables()
    height, width = CONFIG.image_size
    smaller = dataclasses.replace(CONFIG, image_size=(height * 2 // 3, width))
    upper = jax.tree.map(lambda leaf: leaf, params)
    visual = upper["params"]["visual"]
    visual["positional_embedding"] = visual["positional_embedding"][:4]
    run = jax.jit(lambda v, x: clip.build(smaller, zero_shot())["encode_image"](v, x)[0])
    expected = run(upper, rows["image"][:, : height * 2 // 3])
    patches = np.array([[0, 1, 2, 3], [2, 0, 3, 1]], np.int32)
    kept = jax.jit(lambda v, x: clip.build(CONFIG, zero_shot())["encode_image"](v, x, patches=patches)[0])
    np.testing.assert_allclose(kept(params, rows["image"]), expected, rtol=1e-5, atol=1e-6)


def test_all_tokens_by_hand():
    """Token 0 is the image's feature, and the others are what the pooling gives for each patch alone."""
    rows, params = tiny_siglip.batch(2), float64(variables()["params"])
    found = encode(zero_shot(), variables(), rows, "image", all_tokens=True)
    assert found.shape == (2, 7, 16)
    p = params["visual"]
    for row, image in zip(found, rows["image"] / 127.5 - 1, strict=True):
        tokens = tiny_siglip.norm(tiny_siglip.vision_tokens(image, p), p["ln_post"])
        alone = [tiny_siglip.pool(token[None], p["pool"], 4) for token in tokens]
        expected = np.stack([tiny_siglip.pool(tokens, p["pool"], 4), *alone])
        assert relative(row, expected) < 1e-5
    found, p = encode(zero_shot(), variables(), rows, "text", all_tokens=True), params["text"]
    for row, ids in zip(found, rows["ids"], strict=True):
        tokens = tiny_siglip.norm(tiny_siglip.text_tokens(ids, p), p["ln_final"])
        assert relative(row, tiny_siglip.linear(tokens, p["proj"])) < 1e-5


def test_leaves():
    """The towers have a bias in the patches and the text's projection, a pooling head, and no class token."""
    found = shapes_of(declare(CONFIG, zero_shot())["params"])
    outside = {name: shape for name, shape in found.items() if "/block_" not in name}
    d, w = 16, 8
    assert outside == {
        "visual/conv1/kernel": (4, 4, 3, d),
        "visual/conv1/bias": (d,),
        "visual/positional_embedding": (6, d),
        "visual/ln_post/scale": (d,),
        "visual/ln_post/bias": (d,),
        "visual/pool/probe": (1, 1, d),
        "visual/pool/attn/qkv/kernel": (d, 3 * d),
        "visual/pool/attn/qkv/bias": (3 * d,),
        "visual/pool/attn/out/kernel": (d, d),
        "visual/pool/attn/out/bias": (d,),
        "visual/pool/ln_2/scale": (d,),
        "visual/pool/ln_2/bias": (d,),
        "visual/pool/mlp/fc/kernel": (d, 24),
        "visual/pool/mlp/fc/bias": (24,),
        "visual/pool/mlp/proj/kernel": (24, d),
        "visual/pool/mlp/proj/bias": (d,),
        "text/token_embedding": (13, w),
        "text/positional_embedding": (7, w),
        "text/ln_final/scale": (w,),
        "text/ln_final/bias": (w,),
        "text/proj/kernel": (w, 16),
        "text/proj/bias": (16,),
    }


def test_padding_counts():
    """Attention is not causal: what follows the end of text changes the feature, so it is never trimmed."""
    rows = tiny_siglip.batch(3)
    ends = clip.end_positions(rows["ids"], None)
    assert ends.min() < 6
    np.testing.assert_array_equal(clip.read_positions(rows["ids"], CONFIG), [6, 6, 6])
    np.testing.assert_array_equal(clip.read_positions(jnp.asarray(rows["ids"]), CONFIG), [6, 6, 6])
    np.testing.assert_array_equal(clip.read_positions(rows["ids"], tiny_clip.CONFIG), ends)
    other = {**rows, "ids": np.where(np.arange(7) > ends[:, None], 5, rows["ids"])}
    changed = encode(zero_shot(), variables(), other, "text")
    assert relative(changed, encode(zero_shot(), variables(), rows, "text")) > 1e-2


def test_prompts_by_hand():
    """Prompts follow the patches, which alone are pooled, and the text, whose last position is still read."""
    method = prompts(2, depth=2)
    trained, rows = variables(method), tiny_siglip.batch(2)
    for_vision, for_text = (np.asarray(x, np.float64) for x in prompt_tokens(trained["prompt"]["prompts"]))
    assert for_vision.shape == (2, 4, 16) and for_text.shape == (2, 4, 8)
    params = float64(trained["params"])
    expected = [tiny_siglip.image_feature(x, params["visual"], for_vision) for x in rows["image"] / 127.5 - 1]
    assert relative(encode(method, trained, rows, "image"), np.stack(expected)) < 1e-5
    expected = [tiny_siglip.text_feature(ids, params["text"], for_text) for ids in rows["ids"]]
    assert relative(encode(method, trained, rows, "text"), np.stack(expected)) < 1e-5
    plain = encode(zero_shot(), {"params": trained["params"]}, rows, "text")
    assert relative(np.stack(expected), plain) > 1e-3


def test_labels_of_masked_words_stay_in_place():
    """Prompts follow the text, so the labels are only padded."""
    labels = jnp.array([[0, 4, 0, 0, 9, 0, 0]])
    model = clip.build(CONFIG, prompts(1))
    np.testing.assert_array_equal(model["place_labels"](labels, labels), [[0, 4, 0, 0, 9, 0, 0, 0, 0]])
    model = clip.build(CONFIG, zero_shot())
    np.testing.assert_array_equal(model["place_labels"](labels, labels), labels)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains(name):
    """Each trained array receives a gradient from the features."""
    method = METHODS[name](**SETTINGS.get(name, {}))
    model, rows = clip.build(CONFIG, method), tiny_siglip.batch(2)
    trainable, frozen = split_model(variables(method), method)
    merged = lambda t: {**frozen, **t, "params": merge(frozen.get("params", {}), t.get("params", {}))}  # noqa: E731

    def total(trainable):
        v = merged(trainable)
        return (model["encode_image"](v, rows["image"])[0] ** 2).sum() + (
            model["encode_text"](v, rows["ids"])[0] ** 2
        ).sum()

    value, gradients = jax.jit(jax.value_and_grad(total))(trainable)
    assert np.isfinite(value) and (name == "zero_shot") == (not jax.tree.leaves(gradients))
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, path
    if name == "linear_probe":
        assert set(shapes_of(trainable)) == {
            f"params/{layer}/{leaf}"
            for layer in ("visual/pool/mlp/proj", "text/proj")
            for leaf in ("kernel", "bias")
        }


def merge(a, b):
    """Merges two nested dicts."""
    return {
        key: merge(a[key], b[key]) if key in a and key in b else a.get(key, b.get(key)) for key in {**a, **b}
    }


@pytest.mark.parametrize("settings", [{"scan_layers": True}, {"remat": "block"}], ids=str)
def test_scan_and_remat_change_nothing(settings):
    config = dataclasses.replace(CONFIG, vision_layers=3, text_layers=3)
    method = METHODS["cskt"](prompts=1)
    rows = tiny_siglip.batch(2)
    values = tiny_clip.random_like(declare(config, method), seed=0)
    for tower, key in (("image", "image"), ("text", "ids")):
        found = [
            jax.jit(lambda v, x, m=model, t=tower: m[f"encode_{t}"](v, x)[0])(values, rows[key])
            for model in (clip.build(config, method), clip.build(config, method, **settings))
        ]
        assert relative(found[1], found[0]) < 1e-5


def test_bfloat16():
    rows = tiny_siglip.batch(2)
    for tower in ("image", "text"):
        found = encode(zero_shot(), variables(), rows, tower, dtype="bfloat16")
        assert relative(found, encode(zero_shot(), variables(), rows, tower)) < 3e-2


def test_pixels_beyond_the_last_whole_patch_are_ignored():
    """SigLIP So400m has 384 pixels and patches of 14."""
    config = dataclasses.replace(CONFIG, image_size=(14, 11))
    assert config.grid == (3, 2)
    model = clip.build(config, zero_shot())
    images = np.random.default_rng(0).integers(0, 256, (2, 14, 11, 3), np.uint8)
    run = jax.jit(lambda v, x: model["encode_image"](v, x)[0])
    expected = jax.jit(lambda v, x: clip.build(CONFIG, zero_shot())["encode_image"](v, x)[0])(
        variables(), images[:, :12, :8]
    )
    np.testing.assert_array_equal(run(variables(), images), expected)
