"""The two towers: initial values, and what the features depend on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_clip as tiny
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.models import casting, clip
from tpr_jax.models.clip import declare
from tpr_jax.models.config import Heads
from tpr_jax.models.methods import dm_adapter, zero_shot
from tpr_jax.models.petl_modules import MoePart

DM = dm_adapter(**tiny.DM_SETTINGS)


@functools.cache
def initial():
    """Returns the initial variables of a tiny DM-Adapter."""
    # This generator compiles faster than the default one.
    return jax.jit(clip.build(tiny.CONFIG, DM)["init"])(jax.random.key(0, impl="unsafe_rbg"))


@functools.cache
def encoders(method=DM, config=tiny.CONFIG, dtype="float32"):
    """Returns (encode_image, encode_text) without routing statistics, compiled once for all tests."""
    model = clip.build(config, method, dtype)
    return [jax.jit(lambda v, x, f=model[name]: f(v, x)[0]) for name in ("encode_image", "encode_text")]


@functools.cache
def variables(method=DM, config=tiny.CONFIG):
    """Returns random variables with which every part has an effect."""
    return tiny.random_like(declare(config, method), seed=0)


def relative(found, expected) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_dm_adapter_starts_exactly_as_clip():
    batch, first = tiny.batch(3), initial()
    for i, key in enumerate(("image", "ids")):
        with_parts = encoders()[i](first, batch[key])
        np.testing.assert_array_equal(
            with_parts, encoders(zero_shot())[i]({"params": first["params"]}, batch[key])
        )
        # The features change once the experts' second matrices are not zero.
        moved = {"params": first["params"], "moe": variables()["moe"]}
        assert relative(encoders()[i](moved, batch[key]), with_parts) > 1e-3


def test_declares_the_initial_variables_without_computing_them():
    described = clip.declare(tiny.CONFIG, DM)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), described) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), initial()
    )
    del described["moe"], described["params"]["text"]  # a tree of the caller's own
    assert {"visual", "text"} == clip.declare(tiny.CONFIG, DM)["params"].keys()
    assert "classifier" in str(jax.tree.structure(clip.declare(tiny.CONFIG, DM, Heads(num_classes=3))))


@pytest.mark.parametrize("d", [256, 64])
def test_initial_values(d):
    """Checks bounds, standard deviations and constants on arrays large enough to tell distributions apart."""
    part = MoePart(dm_adapter().vision[0], 1e-5)
    draw = jax.jit(lambda key: part.init(key, jnp.zeros((1, 1, d)))["moe"])
    part, other = draw(jax.random.key(1)), draw(jax.random.key(2))
    down = np.asarray(part["down"]["kernel"])
    assert np.abs(down).max() <= d**-0.5 and np.abs(down).max() > 0.99 * d**-0.5
    np.testing.assert_allclose(down.std(), (d * 3) ** -0.5, rtol=0.05)
    assert np.abs(down.mean()) < 4 * (d * 3) ** -0.5 / down.size**0.5
    for zero in (part["down"]["bias"], part["up"]["kernel"], part["up"]["bias"], part["ln_3"]["bias"]):
        assert not np.any(zero)
    np.testing.assert_array_equal(part["ln_3"]["scale"], np.ones(d))
    assert part["router"]["alpha"] == 0.5
    for gate in ("w_in", "w_task"):
        np.testing.assert_allclose(np.std(part["router"][gate]), 0.02, rtol=0.2)
    prompt = np.asarray(part["router"]["prompt"])
    np.testing.assert_allclose(prompt.std(), 1.0, rtol=0.25)
    assert np.abs(prompt).max() > 1.7 and abs(prompt.mean()) < 4 / d**0.5
    assert not np.array_equal(prompt, other["router"]["prompt"])


def test_random_leaves_are_independent():
    """No two blocks, towers, routers or experts have the same initial values."""
    drawn = [np.ravel(x) for x in jax.tree.leaves(initial()) if x.size > 8 and np.std(x) > 0]
    assert len(drawn) > 25
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            # Compares them as standard normals, whatever their standard deviations.
            n = min(a.size, b.size)
            assert not np.allclose(a[:n] / a.std(), b[:n] / b.std(), rtol=1e-2)


def test_normalize_by_hand():
    pixel = jnp.array([[[[0, 255, 51]]]], jnp.uint8)
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    found = clip.normalize(pixel)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[0, 0, 0], (np.array([0, 1, 0.2]) - mean) / std, rtol=1e-6)


def test_patches_by_hand():
    """An image of 4 x 6 pixels in patches of 2: pixel (y, x), channel c is 100 y + 10 x + c."""
    y, x, c = np.ogrid[:4, :6, :3]
    found = np.asarray(clip.extract_patches(jnp.asarray(100.0 * y + 10 * x + c)[None], 2))
    assert found.shape == (1, 6, 12)
    corner = [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112]
    for i, offset in enumerate((0, 20, 40, 200, 220, 240)):
        np.testing.assert_array_equal(found[0, i], np.array(corner) + offset)


@pytest.mark.parametrize("size", [(28, 28), (28, 42), (30, 29), (384, 128), (27, 14)])
def test_patches_are_those_of_a_convolution(size):
    """Pixels that do not fill a patch are ignored, as in a convolution with a stride of the patch size."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(14, 14, 3, 5)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        images, kernel, (14, 14), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    found = clip.extract_patches(jnp.asarray(images), 14) @ kernel.reshape(-1, 5)
    assert expected.shape == (2, size[0] // 14, size[1] // 14, 5)
    np.testing.assert_allclose(found, expected.reshape(2, -1, 5), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [(4, 4), (8, 16), (20, 4), (23, 5)])
def test_images_of_any_height_and_width(size):
    config = dataclasses.replace(tiny.CONFIG, image_size=size, text_layers=1)
    model = clip.build(config, zero_shot())
    weights = tiny.random_like(declare(config, zero_shot()), seed=0)
    assert len(weights["params"]["visual"]["positional_embedding"]) == 1 + (size[0] // 4) * (size[1] // 4)
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    feats, routing = jax.jit(model["encode_image"])(weights, images)
    assert feats.shape == (2, 5) and np.isfinite(feats).all() and routing == []


def test_pixels_and_normalized_floats_agree():
    images = tiny.batch(2)["image"]
    from_pixels = encoders()[0](variables(), images)
    from_floats = encoders()[0](variables(), np.asarray(clip.normalize(images)))
    np.testing.assert_allclose(from_pixels, from_floats, rtol=1e-5, atol=1e-6)


def test_text_feature_is_read_at_the_end_position():
    """The position is that of the first eot_id, which may also pad, or without eot_id of the highest id."""
    ids = np.array([[0, 3, 2, 5, 5, 5, 5], [0, 5, 9, 4, 5, 5, 5]], np.int32)
    by_highest = np.asarray(encoders()[1](variables(), ids))
    by_name = np.asarray(encoders(config=dataclasses.replace(tiny.CONFIG, eot_id=5))[1](variables(), ids))
    np.testing.assert_allclose(by_name[0], by_highest[0], rtol=1e-5, atol=1e-6)
    assert relative(by_name[1], by_highest[1]) > 1e-2


def test_text_attention_is_causal():
    """A feature depends on the ids before the end of its text, and not on later ids or other rows."""
    ids = np.array([[0, 3, 4, 12, 0, 0, 0], [0, 7, 12, 0, 0, 0, 0]], np.int32)
    before = np.asarray(encoders()[1](variables(), ids))
    behind, earlier = ids.copy(), ids.copy()
    behind[0, 4:] = [5, 6, 7]
    earlier[0, 1] = 5
    np.testing.assert_allclose(encoders()[1](variables(), behind), before, rtol=1e-5, atol=1e-6)
    after = np.asarray(encoders()[1](variables(), earlier))
    assert relative(after[0], before[0]) > 1e-2
    np.testing.assert_allclose(after[1], before[1], rtol=1e-5, atol=1e-6)


def test_a_shorter_text_gives_the_same_feature():
    ids = np.array([[0, 3, 4, 12, 0, 0, 0]], np.int32)
    long, short = (encoders()[1](variables(), x) for x in (ids, ids[:, :4]))
    np.testing.assert_allclose(long, short, rtol=1e-5, atol=1e-6)


def test_kept_patches_are_those_of_a_smaller_image():
    """The upper four of six patches are an image without its lowest row of patches."""
    images, params = tiny.batch(3)["image"], variables()
    config = dataclasses.replace(tiny.CONFIG, image_size=(8, 8))
    upper = jax.tree.map(lambda leaf: leaf, params)
    upper["params"]["visual"]["positional_embedding"] = upper["params"]["visual"]["positional_embedding"][:5]
    expected = encoders(config=config)[0](upper, images[:, :8])
    encode_image = clip.build(tiny.CONFIG, DM)["encode_image"]
    run = jax.jit(lambda patches: encode_image(params, images, patches=patches)[0])
    found = run(np.tile(np.arange(4, dtype=np.int32), (3, 1)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # Of each image its own patches, in any order.
    mixed = run(np.array([[3, 1, 0, 2], [0, 1, 2, 3], [5, 1, 4, 2]], np.int32))
    np.testing.assert_allclose(mixed[:2], expected[:2], rtol=1e-5, atol=1e-6)
    assert relative(mixed[2], expected[2]) > 1e-3
    whole = run(np.tile(np.arange(6, dtype=np.int32), (3, 1)))
    np.testing.assert_allclose(whole, encoders()[0](params, images), rtol=1e-5, atol=1e-6)


def test_every_pixel_affects_the_feature():
    """The image feature is read at token 0, which sees all patches."""
    images = np.asarray(clip.normalize(tiny.batch(1)["image"]))
    gradient = jax.jit(jax.grad(lambda x: jnp.square(encoders()[0](variables(), x)).sum()))(images)
    assert (np.abs(gradient) > 0).all()


@pytest.mark.parametrize(
    ("method", "tolerance"), [(zero_shot(), 1e-2), (DM, 2e-2)], ids=["clip", "dm_adapter"]
)
def test_bfloat16_stays_near_float32(method, tolerance):
    """The widths are large enough for rounding errors to average out.

    In a mixture a token with nearly equal experts may be routed to another one, which changes features by
    more than rounding.
    """
    sizes = {"vision_width": 64, "text_width": 64, "text_layers": 1, "embed_dim": 32}
    config = dataclasses.replace(tiny.CONFIG, **sizes)
    weights = variables(method, config)
    weights = {**weights, "params": jax.tree.map(lambda x: x / 3 if x.ndim > 1 else x, weights["params"])}
    held = {**weights, "params": casting.cast_frozen(weights["params"], "bfloat16")}
    batch = tiny.batch(8)
    for i, key in enumerate(("image", "ids")):
        exact = encoders(method, config)[i](weights, batch[key])
        rounded = encoders(method, config, "bfloat16")[i](held, batch[key])
        assert exact.dtype == rounded.dtype == jnp.float32
        assert 1e-5 < relative(rounded, exact) < tolerance, key


def test_routing_of_each_block():
    batch = tiny.batch(2)
    model = clip.build(tiny.CONFIG, DM)
    _, visual = jax.eval_shape(model["encode_image"], variables(), batch["image"])
    _, text = jax.eval_shape(model["encode_text"], variables(), batch["ids"])
    assert (len(visual), len(text)) == (1, 2)
    for block in [*visual, *text]:
        assert {name: leaf.shape for name, leaf in block.items()} == {
            "balance": (),
            "load": (3,),
            "chosen": (3,),  # with `probability` this makes the balance of a batch from its microbatches
            "probability": (3,),
            "alpha": (),
        }
