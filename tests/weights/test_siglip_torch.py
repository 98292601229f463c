"""SigLIP against transformers' SiglipModel, with random weights of several shapes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.siglip_folder import write_siglip
from tpr_jax.data.siglip_tokenizer import siglip_tokenizer
from tpr_jax.models import clip
from tpr_jax.models.methods import zero_shot
from tpr_jax.weights.clip import load_clip, save_clip

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers")


def tower(width, mlp, layers, heads, **settings):
    return {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **settings,
    }


# Vision tower, text tower, and a height and width other than the model's own.
SHAPES = {
    "odd": (
        tower(24, 40, 3, 3, image_size=20, patch_size=4),
        tower(20, 36, 2, 5, max_position_embeddings=11, vocab_size=50, projection_size=24),
        (12, 32),
    ),
    "one_head": (
        tower(8, 12, 1, 1, image_size=6, patch_size=3),
        tower(8, 20, 3, 2, max_position_embeddings=5, vocab_size=9),
        (9, 3),
    ),
    # SigLIP So400m: heads of 72, and 384 pixels in patches of 14 leave a rest; here 46 pixels.
    "so400m": (
        tower(1152, 4304, 1, 16, image_size=46, patch_size=14),
        tower(1152, 4304, 1, 16, max_position_embeddings=64, vocab_size=320),
        (84, 28),
    ),
    # SigLIP 2 giant projects texts to the width of the images.
    "siglip2": (
        tower(96, 384, 2, 2, image_size=64, patch_size=16),
        tower(64, 256, 2, 2, max_position_embeddings=64, vocab_size=25600, projection_size=96),
        (96, 32),
    ),
}


@pytest.fixture(scope="module", params=SHAPES)
def case(request, torch, transformers):
    """Returns a random SiglipModel and another image size."""
    vision, text, size = SHAPES[request.param]
    torch.manual_seed(len(request.param))
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    config._attn_implementation = "eager"
    model = transformers.SiglipModel(config).eval()
    for name, parameter in model.named_parameters():
        fan_in = parameter.shape[-1] if parameter.ndim > 1 else 50
        torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=fan_in**-0.5)
    return model, size


def relative(found, expected) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape and np.isfinite(found).all()
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def inputs(config, size, seed=0):
    """Returns normalized images [2, h, w, 3] and ids [3, l]."""
    rng, text = np.random.default_rng(seed), config.text_config
    images = rng.normal(size=(2, *size, 3)).astype(np.float32)
    return images, rng.integers(0, text.vocab_size, (3, text.max_position_embeddings), np.int32)


def theirs(torch, model, images, ids):
    """Returns transformers' features of both towers, with positions interpolated by its own code."""
    with torch.no_grad():
        vision = model.vision_model(
            torch.tensor(images.transpose(0, 3, 1, 2)), interpolate_pos_encoding=True
        ).pooler_output
        text = model.text_model(torch.tensor(ids, dtype=torch.long)).pooler_output
    return vision.numpy(), text.numpy()


def ours(folder, images, ids):
    config, params = load_clip(folder, images.shape[1:3])
    model, variables = clip.build(config, zero_shot()), {"params": params}
    return [
        jax.jit(lambda v, x, f=model[name]: f(v, x)[0])(variables, jnp.asarray(rows))
        for name, rows in (("encode_image", images), ("encode_text", ids))
    ]


def test_features(torch, case, tmp_path):
    model, size = case
    model.save_pretrained(tmp_path)
    own = (model.config.vision_config.image_size,) * 2
    for image_size in (own, size):
        images, ids = inputs(model.config, image_size)
        for found, expected in zip(
            ours(tmp_path, images, ids), theirs(torch, model, images, ids), strict=True
        ):
            assert relative(found, expected) < 1e-5


def test_transformers_reads_what_we_write(torch, transformers, case, tmp_path):
    """At its own size exactly, and at a tall size with the positions interpolated by transformers."""
    model, size = case
    model.save_pretrained(tmp_path / "theirs")
    own = (model.config.vision_config.image_size,) * 2
    for name, image_size in (("own", own), ("tall", size)):
        config, params = load_clip(tmp_path / "theirs", image_size)
        save_clip(tmp_path / name, config, params)
        again = transformers.SiglipModel.from_pretrained(tmp_path / name, attn_implementation="eager").eval()
        images, ids = inputs(model.config, image_size)
        for a, b in zip(theirs(torch, again, images, ids), theirs(torch, model, images, ids), strict=True):
            assert relative(a, b) < 1e-5
        assert float(again.logit_bias) == float(model.logit_bias)
        assert float(again.logit_scale) == float(model.logit_scale)
        written = json.loads((tmp_path / name / "preprocessor_config.json").read_text())
        assert written["size"] == {"height": image_size[0], "width": image_size[1]}
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "tall")
    assert "Siglip" in type(processor).__name__ and list(processor.image_mean) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("version", [1, 2])
def test_tokenizers(transformers, tmp_path, version):
    """Compares with the class that transformers has for SigLIP 2, and with its general one for SigLIP."""
    folder = write_siglip(tmp_path, version)
    name = {1: "PreTrainedTokenizerFast", 2: "Siglip2Tokenizer"}[version]
    theirs = getattr(transformers, name).from_pretrained(str(folder))
    theirs.padding_side = "right"  # as in the published tokenizer_config.json
    texts = ["A man in a RED coat, with white shoes.", "", "red", "x" * 40, "Né 東", "  two  spaces "]
    expected = theirs(texts, padding="max_length", max_length=16, truncation=True)["input_ids"]
    np.testing.assert_array_equal(siglip_tokenizer(folder, 16)(texts), expected)
