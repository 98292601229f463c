"""CLIP's weights: names, layouts, sizes, saving and loading."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.clip_folder import FOLDER, copy_golden, edit_json, edit_state, read_golden
from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.weights.clip import (
    from_hugging_face,
    from_openai,
    load_clip,
    read_image_settings,
    save_clip,
    to_hugging_face,
    to_openai,
)
from tpr_jax.weights.files import read_state, write_state
from tpr_jax.weights.resize import resize_positions


@pytest.fixture(scope="module")
def golden():
    return read_golden()


@pytest.fixture
def folder(tmp_path):
    return copy_golden(tmp_path)


def assert_trees_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_sizes_and_layouts_of_the_golden_folder(golden):
    state, _ = golden
    config, params = load_clip(FOLDER)
    assert config == ClipConfig(
        image_size=(32, 32), patch_size=8, vision_width=128, vision_layers=2, vision_heads=2, vision_mlp=512,
        text_width=64, text_layers=3, text_heads=1, text_mlp=256, context_length=16, vocab_size=160,
        embed_dim=48, eot_id=159, logit_scale=float(state["logit_scale"]),
    )  # fmt: skip
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    attn = "vision_model.encoder.layers.1.self_attn."
    x = np.random.default_rng(0).standard_normal(128).astype(np.float32)
    qkv = params["visual"]["block_1"]["attn"]["qkv"]
    separate = [state[f"{attn}{p}_proj.weight"] @ x + state[f"{attn}{p}_proj.bias"] for p in "qkv"]
    np.testing.assert_allclose(x @ qkv["kernel"] + qkv["bias"], np.concatenate(separate), atol=1e-5)
    # The convolution of one patch, by definition.
    patch = np.random.default_rng(1).standard_normal((8, 8, 3)).astype(np.float32)
    theirs = np.einsum("ochw,hwc->o", state["vision_model.embeddings.patch_embedding.weight"], patch)
    ours = np.einsum("hwc,hwco->o", patch, params["visual"]["conv1"]["kernel"])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(params["text"]["proj"], state["text_projection.weight"].T)


def test_hugging_face_round_trip(golden):
    state, config_json = golden
    config, params = from_hugging_face(state, config_json)
    back, back_json = to_hugging_face(params, config)
    assert set(back) == set(state)
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], np.asarray(array, np.float32), err_msg=name)
    config_again, params_again = from_hugging_face(back, back_json)
    assert config_again == config
    assert_trees_equal(params_again, params)
    for key in ("bos_token_id", "eos_token_id", "vocab_size", "hidden_size", "max_position_embeddings"):
        assert back_json["text_config"][key] == config_json["text_config"][key]
    assert back_json["vision_config"]["image_size"] == 32


def test_openai_round_trip(golden):
    config, params = from_hugging_face(*golden)
    state = to_openai(params, config)
    assert state["visual.transformer.resblocks.0.attn.in_proj_weight"].shape == (3 * 128, 128)
    assert state["visual.proj"].shape == (128, 48) and state["text_projection"].shape == (64, 48)
    scalars = {"input_resolution": np.int64(32), "context_length": np.int64(16), "vocab_size": np.int64(160)}
    config_again, params_again = from_openai(state | scalars)
    assert config_again == dataclasses.replace(config, eot_id=None)
    assert_trees_equal(params_again, params)


def test_openai_in_half_precision_from_a_file(golden, tmp_path):
    config, params = from_hugging_face(*golden)
    half = {name: np.asarray(array).astype(np.float16) for name, array in to_openai(params, config).items()}
    write_state(tmp_path / "vit.safetensors", half)
    loaded, params_again = load_clip(
        tmp_path / "vit.safetensors", image_size=(32, 16), act="quick_gelu", heads=(2, 1)
    )
    assert loaded.grid == (4, 2)
    np.testing.assert_array_equal(params_again["visual"]["proj"], params["visual"]["proj"])


def test_openai_positions_of_another_grid(golden):
    config, params = from_hugging_face(*golden)
    tall, resized = from_openai(to_openai(params, config), image_size=(64, 16))
    expected = resize_positions(params["visual"]["positional_embedding"], (4, 4), (8, 2))
    np.testing.assert_array_equal(resized["visual"]["positional_embedding"], expected)
    # 8 is not a square number, so the grid is that of image_size.
    wide, params_wide = from_hugging_face(*golden, image_size=(32, 16))
    again, params_again = from_openai(to_openai(params_wide, wide), image_size=(32, 16))
    assert again.grid == (4, 2)
    assert_trees_equal(params_again, params_wide)
    with pytest.raises(UserError, match="8 patches"):
        from_openai(to_openai(params_wide, wide))
    # `grid` selects a grid that is not square but has a square number of patches.
    state = to_openai(resized, tall)
    assert_trees_equal(from_openai(state, image_size=(64, 16), grid=(8, 2))[1], resized)


def test_image_size_from_argument_settings_and_config(folder):
    own = load_clip(folder)[1]["visual"]["positional_embedding"]
    settings = folder / "preprocessor_config.json"
    settings.write_text(json.dumps({"size": {"height": 24, "width": 8}, "do_center_crop": False}))
    config, params = load_clip(folder)
    assert config.image_size == (24, 8)
    expected = resize_positions(own, (4, 4), (3, 1))
    np.testing.assert_array_equal(params["visual"]["positional_embedding"], expected)
    assert load_clip(folder, image_size=(16, 16))[0].image_size == (16, 16)
    settings.write_text(json.dumps({"size": {"shortest_edge": 40}, "crop_size": {"height": 40, "width": 40}}))
    assert load_clip(folder)[0].image_size == (40, 40)
    settings.write_text(json.dumps({"size": 48, "crop_size": 40, "image_mean": [0, 0.5, 1]}))
    assert load_clip(folder)[0].image_size == (40, 40)
    assert read_image_settings(folder).mean == (0, 0.5, 1)
    settings.write_text(json.dumps({"size": {"shortest_edge": 40}}))
    assert load_clip(folder)[0].image_size == (32, 32)


@pytest.mark.parametrize("image_size", [(24, 8), (8, 40), (32, 32)])
def test_save_and_load_is_exact(tmp_path, image_size):
    config, params = load_clip(FOLDER, image_size=image_size)
    (tmp_path / "t.json").write_text("{}")
    save_clip(tmp_path / "out", config, params, tokenizer_json=tmp_path / "t.json")
    again, params_again = load_clip(tmp_path / "out")
    assert again == config
    assert_trees_equal(params_again, params)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    positions = read_state(tmp_path / "out" / "model.safetensors")[
        "vision_model.embeddings.position_embedding.weight"
    ]
    # Hugging Face's code requires both.
    side = written["vision_config"]["image_size"] // written["vision_config"]["patch_size"]
    assert len(positions) == 1 + side**2
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"


def test_saving_in_half_precision(tmp_path):
    config, params = load_clip(FOLDER)
    save_clip(tmp_path, config, params, dtype="float16")
    assert read_state(tmp_path / "model.safetensors")["visual_projection.weight"].dtype == np.float16
    assert_trees_equal(load_clip(tmp_path)[1], params)  # the golden weights are exact in float16
    params["text"]["proj"] = params["text"]["proj"] * 1e6
    with pytest.raises(UserError, match=r"text_projection.weight.*float16"):
        save_clip(tmp_path, config, params, dtype="float16")


def test_sharded_weights(folder):
    state = read_state(folder / "model.safetensors")
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[:40], "model-00002-of-00002.safetensors": names[40:]}
    for file, own in shards.items():
        write_state(folder / file, {name: state[name] for name in own})
    weight_map = {name: file for file, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    assert_trees_equal(load_clip(folder)[1], load_clip(FOLDER)[1])
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002"):
        load_clip(folder)


def test_legacy_end_of_text_and_position_ids(folder):
    edit_json(folder / "config.json", text_config__eos_token_id=2)
    edit_state(folder, text_model__embeddings__position_ids=np.arange(16)[None])
    assert load_clip(folder)[0].eot_id is None


def test_missing_config_keys_have_defaults(golden):
    _, _config_json = golden
    from tpr_jax.weights.hugging_face import read_config

    config = read_config({"model_type": "clip", "text_config": {}, "vision_config": {}})
    b32 = ClipConfig(image_size=(224, 224), patch_size=32, eot_id=49407)
    assert config == dataclasses.replace(b32, logit_scale=config.logit_scale)
    gelu = {
        "model_type": "clip",
        "text_config_dict": {"hidden_act": "gelu"},
        "vision_config": {"hidden_act": "gelu"},
    }
    assert read_config(gelu).act == "gelu"
