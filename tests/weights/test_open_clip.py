"""OpenCLIP's folders and weights."""

import numpy as np
import pytest

import tpr_jax
from tests.clip_folder import OPEN_CLIP, copy_open_clip, open_clip_config
from tests.tiny_clip import quick_compilation  # noqa: F401
from tpr_jax.errors import UserError
from tpr_jax.utils import notices
from tpr_jax.weights import backbone
from tpr_jax.weights.clip import load_clip, read_sizes
from tpr_jax.weights.files import read_state, write_state
from tpr_jax.weights.open_clip import fold_layer_scale, from_open_clip, without_text_prefix


@pytest.fixture(scope="module")
def golden():
    state = read_state(OPEN_CLIP / "open_clip_model.safetensors")
    return {name: array.astype(np.float32) for name, array in state.items()}, open_clip_config()


def test_custom_text_names(golden):
    state, content = golden
    towers = ("visual.", "logit_")
    renamed = {name if name.startswith(towers) else f"text.{name}": a for name, a in state.items()}
    assert without_text_prefix(renamed, "w").keys() == state.keys()
    found, expected = from_open_clip(renamed, content), from_open_clip(state, content)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1]["text"]["proj"], expected[1]["text"]["proj"])
    with pytest.raises(UserError, match=r"'text_projection' is there twice"):
        without_text_prefix(state | {"text.text_projection": state["text_projection"]}, "w")


def test_layer_scale_equals_scaled_outputs(golden):
    """x + gamma * (W z + b), in float64, is what the folded layer adds to x."""
    state, content = golden
    rng, block = np.random.default_rng(0), "visual.transformer.resblocks.1"
    gammas = {f"{block}.ls_{i}.gamma": rng.normal(size=128).astype(np.float32) for i in (1, 2)}
    folded = fold_layer_scale(state | gammas, "w")
    assert folded.keys() == state.keys()
    for i, layer, width in ((1, "attn.out_proj", 128), (2, "mlp.c_proj", 512)):
        z = rng.normal(size=width)
        before, after = (
            weights[f"{block}.{layer}.weight"].astype(np.float64) @ z + weights[f"{block}.{layer}.bias"]
            for weights in (state, folded)
        )
        np.testing.assert_allclose(after, gammas[f"{block}.ls_{i}.gamma"] * before, rtol=1e-5, atol=1e-6)
    assert from_open_clip(state | gammas, content)[0] == from_open_clip(state, content)[0]
    with pytest.raises(UserError, match=r"ls_1.gamma' of shape \[3\] does not fit .*out_proj.weight"):
        fold_layer_scale(state | {f"{block}.ls_1.gamma": np.ones(3)}, "w")
    with pytest.raises(UserError, match=r"does not fit 'x.attn.out_proj.weight' of shape \[0\]"):
        fold_layer_scale({"x.ls_1.gamma": np.ones(3)}, "w")


def test_ignores_what_the_features_do_not_depend_on(golden):
    state, content = golden
    more = {"logit_bias": np.ones(1), "attn_mask": np.zeros((20, 20)), "logit_scale": np.full(1, 3.0)}
    config, _ = from_open_clip(state | more, content)
    assert config.logit_scale == 3.0
    with pytest.raises(UserError, match=r"'odd' of shape \[2\] has no place"):
        from_open_clip(state | {"odd": np.ones(2)}, content)
    with pytest.raises(UserError, match=r"resblocks\.2\..* is missing"):
        from_open_clip(state, open_clip_config(vision_cfg__layers=3))


# Folders.


def test_a_folder_is_a_backbone_everywhere(tmp_path):
    folder = copy_open_clip(tmp_path)
    model = tpr_jax.from_pretrained(folder, image_size=(32, 16))
    assert (model.config.vision_heads, model.config.act, model.mean) == (4, "gelu", (0.5, 0.5, 0.5))
    assert load_clip(backbone.find(folder).path, (32, 16))[0] == model.config
    assert read_sizes(folder).grid == (4, 4)
    assert len(backbone.sha256(folder)) == 64
    assert tpr_jax.from_pretrained(folder, act="quick_gelu", heads=(2, 1)).config.vision_heads == 2


def test_saved_again_it_gives_the_same_features(tmp_path):
    model = tpr_jax.from_pretrained(OPEN_CLIP)
    model.save_pretrained(tmp_path / "saved")
    again = tpr_jax.from_pretrained(tmp_path / "saved")
    assert again.config == model.config
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, 32, 32, 3)).astype(np.float32), rng.integers(1, 400, (2, 20))
    for a, b in zip(model.features_from_arrays(*inputs), again.features_from_arrays(*inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_texts_have_clips_tokenizer_if_the_vocabulary_is_clips(tmp_path, golden):
    assert tpr_jax.from_pretrained(OPEN_CLIP).tokenizer is None
    folder = copy_open_clip(tmp_path, text_cfg__vocab_size=49408)
    state, _ = golden
    wide = np.zeros((49408, 96), np.float16)
    write_state(folder / "open_clip_model.safetensors", state | {"token_embedding.weight": wide})
    ids = tpr_jax.from_pretrained(folder).tokenizer(["a red coat"])
    assert ids.shape == (1, 20) and ids.max() == 49407


def test_says_which_image_settings_are_not_followed(tmp_path, capsys):
    notices.print_once.cache_clear()
    load_clip(copy_open_clip(tmp_path))
    line = capsys.readouterr().err
    assert "open_clip_config.json" in line and line.count("\n") == 1
    load_clip(copy_open_clip(tmp_path), notices=False)
    assert not capsys.readouterr().err
