"""Folders of SigLIP: loading, image settings, other image sizes, saving, and what is not supported."""

import dataclasses
import json

import numpy as np
import pytest

import tpr_jax
from tests.clip_folder import edit_json, edit_state
from tests.saved_models import trained
from tests.siglip_folder import GOLDEN, write_siglip
from tests.tiny_clip import random_like
from tests.tiny_siglip import CONFIG
from tpr_jax.errors import UserError
from tpr_jax.models.clip import declare
from tpr_jax.models.config import NAMED
from tpr_jax.models.methods import METHODS, zero_shot
from tpr_jax.weights import siglip
from tpr_jax.weights.clip import load_clip, read_sizes, save_clip
from tpr_jax.weights.files import read_state

ACTS = ("vision_config__hidden_act", "text_config__hidden_act")
TEXTS = ["a man in a RED coat", "woman, white shoes", "bag"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_siglip(tmp_path_factory.mktemp("siglip") / "own")


def photos(seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (3, 40, 20, 3), np.uint8))


def features(model):
    return model.encode_images(photos()), model.encode_texts(TEXTS)


def assert_equal_features(found, expected, tolerance=1e-5):
    for a, b in zip(features(found), features(expected), strict=True):
        assert a.shape == b.shape and np.linalg.norm(a - b) / np.linalg.norm(b) < tolerance


def test_from_pretrained(folder):
    model = tpr_jax.from_pretrained(folder)
    config = model.config
    assert (config.family, config.image_size, config.act) == ("siglip", (32, 32), "gelu_tanh")
    assert (config.layer_norm_eps, config.context_length, config.embed_dim) == (1e-6, 16, 128)
    assert (model.mean, model.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (round(config.logit_scale, 3), config.logit_bias) == (2.301, -6.5)
    state = read_state(folder / "model.safetensors")
    assert model.num_params()["total"] == sum(a.size for a in state.values()) - 2
    for feats in features(model):
        assert feats.shape == (3, 128)
        np.testing.assert_allclose(np.linalg.norm(feats, axis=1), 1, rtol=1e-5)
    assert read_sizes(folder) == dataclasses.replace(config, logit_scale=siglip.LOGIT_SCALE, logit_bias=-10.0)


def test_texts_are_encoded_with_all_their_padding(folder):
    """A text's feature is the same alone and beside a longer one, and is that of the row of 16 ids."""
    model = tpr_jax.from_pretrained(folder)
    ids = model.tokenizer(["bag", "a man with a bag"])
    assert ids.shape == (2, 16) and (ids[0, 3:] == 1).all()
    images = np.zeros((1, 32, 32, 3), np.float32)
    _, expected = model.features_from_arrays(images, ids)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode_texts(["bag", "a man with a bag"]), expected, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(["bag"]), expected[:1], atol=1e-5)
    with pytest.raises(UserError, match=r"expected \[m, 16\]: SigLIP's texts are padded"):
        model.features_from_arrays(images, ids[:, :9])


def test_image_settings(folder, tmp_path):
    """Mean and std come from preprocessor_config.json, and are 0.5 where it does not say."""
    own = write_siglip(tmp_path / "own", image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    model = tpr_jax.from_pretrained(own)
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    without = write_siglip(tmp_path / "without", image_mean=None, image_std=None)
    assert tpr_jax.from_pretrained(without).mean == (0.5, 0.5, 0.5)
    (without / "preprocessor_config.json").unlink()
    assert tpr_jax.from_pretrained(without).std == (0.5, 0.5, 0.5)
    # By hand: white pixels are 1, black ones -1.
    pixels = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(3, 3)
    np.testing.assert_allclose(tpr_jax.from_pretrained(folder).normalize(pixels)[:, 0, 0, 0], [-1, 1])


def test_other_image_sizes(folder):
    assert load_clip(folder, (64, 24))[1]["visual"]["positional_embedding"].shape == (8 * 3, 128)
    with pytest.raises(UserError, match=r"image_size 60x7 is smaller than a patch of 8x8 pixels"):
        tpr_jax.from_pretrained(folder, image_size=(60, 7))


@pytest.mark.parametrize("size", [(35, 35), (61, 27)])
def test_image_size_with_a_remainder(tmp_path, size):
    """As SigLIP So400m, whose 384 pixels are 27 patches of 14 and 6 pixels that no patch covers."""
    folder = write_siglip(tmp_path, size={"height": 35, "width": 35})
    edit_json(folder / "config.json", vision_config__image_size=35)
    assert tpr_jax.from_pretrained(folder).config.image_size == (35, 35)
    model = tpr_jax.from_pretrained(folder, image_size=size)
    assert model.config.image_size == size
    adapted = trained(folder, METHODS["lora"](rank=2), size, tokenizer=model.tokenizer)
    for i, saved in enumerate((dataclasses.replace(model, backbone=None), adapted)):
        saved.save_pretrained(tmp_path / str(i))
        again = tpr_jax.from_pretrained(tmp_path / str(i))
        assert again.config.image_size == size
        assert_equal_features(again, saved)


def test_pixels_beyond_the_last_patch_change_nothing(folder):
    model = tpr_jax.from_pretrained(folder, image_size=(35, 20))
    images = np.random.default_rng(0).normal(size=(2, 35, 20, 3)).astype(np.float32)
    changed = images.copy()
    changed[:, 32:], changed[:, :, 16:] = 0, 0
    ids = model.tokenizer(TEXTS)
    found, expected = (model.features_from_arrays(pixels, ids)[0] for pixels in (changed, images))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(32, 32), (64, 24), (24, 48)])
def test_save_and_load(folder, tmp_path, size):
    """A plain SigLIP is saved in Hugging Face's format, with any image size."""
    model = tpr_jax.from_pretrained(folder, image_size=size)
    dataclasses.replace(model, backbone=None).save_pretrained(tmp_path / "saved")
    again = tpr_jax.from_pretrained(tmp_path / "saved")
    assert again.config == model.config
    assert_equal_features(again, model)
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (written["model_type"], written["architectures"]) == ("siglip", ["SiglipModel"])
    assert written["vision_config"]["image_size"] == max(size)
    processor = json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "SiglipImageProcessor"
    assert processor["size"] == {"height": size[0], "width": size[1]}
    # Once more in the same place.
    again.save_pretrained(tmp_path / "other")
    dataclasses.replace(again, backbone=None).save_pretrained(tmp_path / "other")


def test_weights_round_trip_exactly(folder, tmp_path):
    config, params = load_clip(folder)
    save_clip(tmp_path / "saved", config, params, dtype="float16")
    state, expected = (read_state(path / "model.safetensors") for path in (tmp_path / "saved", GOLDEN))
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)
        assert state[name].shape == array.shape


@pytest.mark.parametrize(
    "name", ["dm_adapter", "up_person", "cskt", "bitfit", "linear_probe", "full_finetune"]
)
def test_saved_methods(folder, tmp_path, name):
    method = METHODS[name]()
    tokenizer = tpr_jax.from_pretrained(folder).tokenizer
    model = trained(folder, method, (64, 24), tokenizer=tokenizer)
    model.save_pretrained(tmp_path / "saved")
    again = tpr_jax.from_pretrained(tmp_path / "saved")
    assert_equal_features(again, model)
    merged = model.merge()
    assert_equal_features(merged, model)
    card = (tmp_path / "saved" / "README.md").read_text()
    assert (
        "A SigLIP for text-based" in card
        and '- "siglip"' in card
        and "CLIP" not in card.replace("SigLIP", "")
    )
    if name != "full_finetune":
        saved = json.loads((tmp_path / "saved" / "config.json").read_text())
        assert saved["backbone"]["name"] == str(folder) and saved["backbone"]["act"] == "gelu_tanh"
        assert_equal_features(tpr_jax.from_pretrained(tmp_path / "saved", backbone=folder), model)


def test_a_backbone_of_unknown_origin_is_saved_too(folder, tmp_path):
    model = trained(folder, METHODS["lora"](rank=2), (64, 24), backbone=None)
    model = dataclasses.replace(model, tokenizer=tpr_jax.from_pretrained(folder).tokenizer)
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "backbone" / "config.json").read_text())["model_type"] == "siglip"
    assert_equal_features(tpr_jax.from_pretrained(tmp_path / "saved"), model)
    smaller = tpr_jax.from_pretrained(tmp_path / "saved", image_size=(32, 16))
    assert smaller.encode_images(photos()).shape == (3, 128)


def test_named_sizes_are_those_of_the_published_files():
    """The published config.json leaves out what has the default; `read_config` fills it in."""
    base = {"model_type": "siglip", "text_config": {}, "vision_config": {}}
    assert siglip.read_config(base) == NAMED["google/siglip-base-patch16-224"]
    tower = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
    }
    so400m = {
        "model_type": "siglip",
        "text_config": {**tower, "vocab_size": 256000},
        "vision_config": {**tower, "image_size": 384, "patch_size": 14},
    }
    assert siglip.read_config(so400m) == NAMED["google/siglip2-so400m-patch14-384"]
    assert NAMED["google/siglip2-so400m-patch14-384"].vision_positions == 729


def test_square_positions_give_the_rectangle_back():
    """Whatever the grid, resizing the stored square by SigLIP's own interpolation is exact."""
    for rows, columns in ((6, 2), (3, 7), (24, 8), (1, 5), (4, 4)):
        config = dataclasses.replace(CONFIG, image_size=(4 * rows, 4 * columns))
        params = random_like(declare(config, zero_shot())["params"], 0)
        state, written = siglip.to_siglip(params, config)
        stored = state["vision_model.embeddings.position_embedding.weight"]
        assert stored.shape == (max(rows, columns) ** 2, 16)
        again, restored = siglip.from_siglip(state, written, config.image_size)
        expected = params["visual"]["positional_embedding"]
        assert np.abs(restored["visual"]["positional_embedding"] - expected).max() < 1e-5
        assert again == dataclasses.replace(config, logit_scale=again.logit_scale)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "siglip2"},
            "is SigLIP 2 NaFlex, whose images keep their aspect ratio; use a SigLIP 2",
        ),
        ({"model_type": "siglip_vision_model"}, "is the vision tower of a SigLIP alone; use the folder of"),
        ({"model_type": "siglip_text_model"}, "is the text tower of a SigLIP alone; use the folder of"),
        ({"model_type": "siglip2_vision_model"}, "is the vision tower of SigLIP 2 NaFlex alone"),
        ({"vision_config__vision_use_head": False}, "vision_use_head is False, but retrieval needs the pool"),
        (
            {"text_config__projection_size": 64},
            "projection_size of the text tower is 64, expected the vision",
        ),
        ({"text_config__projection_size": "x"}, "projection_size of the text tower is 'x'"),
        ({"text_config__hidden_act": "gelu"}, "hidden_act differs between the towers"),
        (dict.fromkeys(ACTS, "relu"), "hidden_act 'relu' is not known"),
        (
            {"vision_config__num_attention_heads": 3},
            "hidden_size 128 is not divisible by num_attention_heads",
        ),
        ({"text_config__vocab_size": 0}, "vocab_size is 0, expected a whole number above 0"),
        ({"vision_config__patch_size": 64}, "image_size 32 is smaller than patch_size 64"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
        ({"text_config": 3}, "text_config is not a set of keys"),
    ],
    ids=str,
)
def test_config_errors(folder, tmp_path, changes, message):
    own = write_siglip(tmp_path)
    edit_json(own / "config.json", **changes)
    with pytest.raises(UserError, match="config.json|" + str(own)) as raised:
        tpr_jax.from_pretrained(own)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_missing_and_surplus_weights(tmp_path):
    own = write_siglip(tmp_path)
    edit_state(own, vision_model__head__probe=None)
    with pytest.raises(UserError, match=r"'vision_model.head.probe' of shape \[1, 1, 128\] is missing"):
        tpr_jax.from_pretrained(own)
    own = write_siglip(tmp_path)
    edit_state(own, vision_model__pre_layrnorm__bias=np.zeros(128, np.float32))
    with pytest.raises(UserError, match=r"'vision_model\.pre_layrnorm\.bias' .* has no place"):
        tpr_jax.from_pretrained(own)
    own = write_siglip(tmp_path)
    edit_state(own, logit_bias=np.full(1, np.nan, np.float32))
    with pytest.raises(UserError, match="weight 'logit_bias' is nan"):
        tpr_jax.from_pretrained(own)


def test_without_a_tokenizer_only_texts_complain(tmp_path):
    own = write_siglip(tmp_path)
    (own / "tokenizer.json").unlink()
    model = tpr_jax.from_pretrained(own)
    assert model.encode_images(photos()).shape == (3, 128)
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        model.encode_texts(["red"])
