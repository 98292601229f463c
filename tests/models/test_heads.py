"""The heads of the losses 'id' and 'mlm' against NumPy in float64, and their initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests import tiny_clip as tiny
from tests.oracles import float64, layer_norm
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.models.heads import Classifier, MaskedWords

E, DEPTH, VOCAB = 128, 2, 11  # two heads of width 64
LINEAR = ("kernel", "bias")


def tokens(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, 4, E)).astype(dtype), rng.normal(size=(2, 3, E)).astype(dtype)


def linear(p, x):
    return x @ p["kernel"] + p["bias"]


def masked_words(p, image, text):
    """Computes the masked words as METHODS describes them."""
    query, seen = layer_norm(text, **p["ln_pre_t"]), layer_norm(image, **p["ln_pre_i"])
    kernels, biases = (np.split(p["cross_attn"]["qkv"][leaf], 3, axis=-1) for leaf in LINEAR)
    q, k, v = (
        oracles.heads_of(z @ kernel + bias, E // 64)
        for z, kernel, bias in zip((query, seen, seen), kernels, biases, strict=True)
    )
    x = oracles.attend(q, k, v, np.zeros((3, 4))).transpose(0, 2, 1, 3).reshape(text.shape)
    x = linear(p["cross_attn"]["out"], x)
    for i in range(DEPTH):
        x = oracles.block(p[f"cross_block_{i}"], x, np.zeros((3, 3)), E // 64)[0]
    x = oracles.quick_gelu(linear(p["mlm_head_dense"], layer_norm(x, **p["ln_post"])))
    return linear(p["mlm_head_fc"], layer_norm(x, **p["mlm_head_ln"]))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 5e-2)])
def test_masked_words(dtype, tolerance):
    """Covers cross-attention without a residual, blocks without a mask, and the head, in bfloat16 too."""
    image, text = tokens()
    module = MaskedWords(DEPTH, VOCAB)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image, text)
    assert set(shapes) == {"head"}
    variables = tiny.random_like(shapes, seed=1, scale=0.1)
    # The image tokens are float32, whatever the towers compute in.
    found = jax.jit(module.apply)(variables, image, text.astype(jnp.dtype(dtype)))
    assert found.shape == (2, 3, VOCAB)
    expected = masked_words(float64(variables["head"]), float64(image), float64(text))
    error = np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected)
    assert error < tolerance


def test_classifier():
    rng = np.random.default_rng(0)
    feats, kernel, bias = rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)
    variables = {"head": {"kernel": kernel, "bias": bias}}
    found = Classifier(5).apply(variables, jnp.asarray(feats, jnp.float32))
    np.testing.assert_allclose(found, feats @ kernel + bias, rtol=1e-4, atol=1e-5)


def assert_normal(values, std):
    np.testing.assert_allclose(np.std(values), std, rtol=0.05)
    assert np.abs(values).max() > 3 * std  # neither truncated nor uniform


def test_initial_values_of_the_heads():
    """As in IRRA, by the width w = 128 and the depth n = 2; the classifier N(0, 0.001); biases 0."""
    image, text = tokens()
    drawn = jax.jit(MaskedWords(DEPTH, 256).init)(jax.random.key(0), image, text)["head"]
    narrow, wide = (E * 2 * DEPTH) ** -0.5, E**-0.5
    for name, std in {
        "cross_attn/qkv": wide,
        "cross_attn/out": narrow,
        "cross_block_1/attn/qkv": wide,
        "cross_block_1/attn/out": narrow,
        "cross_block_1/mlp/fc": (2 * E) ** -0.5,
        "cross_block_1/mlp/proj": narrow,
        "mlm_head_dense": (2 * E) ** -0.5,
        "mlm_head_fc": narrow,
    }.items():
        layer = drawn
        for key in name.split("/"):
            layer = layer[key]
        assert_normal(layer["kernel"], std)
        assert not layer["bias"].any()
    for name in ("ln_pre_t", "ln_pre_i", "ln_post", "mlm_head_ln"):
        assert (drawn[name]["scale"] == 1).all() and not drawn[name]["bias"].any()
    drawn = Classifier(300).init(jax.random.key(0), jnp.zeros((1, E)))["head"]
    assert_normal(drawn["kernel"], 0.001)
    assert drawn["kernel"].shape == (E, 300) and not drawn["bias"].any()
