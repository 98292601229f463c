"""CLIP's weights and configs that do not fit are reported with a remedy."""

import numpy as np
import pytest

from tests.clip_folder import FOLDER, copy_golden, edit_json, edit_state, read_golden
from tests.hub_client import serve, unreachable
from tpr_jax.errors import UserError
from tpr_jax.utils import notices
from tpr_jax.weights.clip import from_hugging_face, from_openai, load_clip, save_clip, to_openai


@pytest.fixture(scope="module")
def golden():
    return read_golden()


@pytest.fixture
def folder(tmp_path):
    return copy_golden(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual_projection__weight": None}, r"'visual_projection.weight' of shape \[48, 128\] is missing"),
        ({"extra__weight": np.zeros((2, 3), np.float32)}, r"'extra.weight' of shape \[2, 3\] has no place"),
        (
            {"text_model__final_layer_norm__bias": np.zeros(65, np.float32)},
            r"'text_model.final_layer_norm.bias' has shape \[65\], expected \[64\]",
        ),
        (
            {"vision_model__embeddings__position_embedding__weight": np.zeros((10, 128), np.float32)},
            r"position_embedding.weight' has shape \[10, 128\], expected \[17, 128\]",
        ),
    ],
)
def test_reports_a_weight_that_does_not_fit(folder, changes, message):
    edit_state(folder, **changes)
    with pytest.raises(UserError, match=message) as error:
        load_clip(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_counts_missing_weights(folder):
    edit_json(folder / "config.json", vision_config__num_hidden_layers=3)
    with pytest.raises(UserError, match=r"layers\.2\..* is missing \(and 15 more\)"):
        load_clip(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "blip"}, "model_type is 'blip', expected 'clip' or 'siglip'"),
        ({"vision_config__hidden_act": "gelu"}, "hidden_act differs"),
        ({"vision_config__num_attention_heads": 3}, "128 is not divisible by num_attention_heads 3"),
        ({"text_config": []}, None),
        ({"text_config": [1]}, "text_config is not a set of keys"),
    ],
)
def test_reports_a_config_that_does_not_fit(folder, changes, message):
    edit_json(folder / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        load_clip(folder)


def test_unknown_activation(folder):
    edit_json(folder / "config.json", vision_config__hidden_act="relu", text_config__hidden_act="relu")
    with pytest.raises(UserError, match=r"hidden_act 'relu'.*quick_gelu"):
        load_clip(folder)


@pytest.mark.parametrize("image_size", [(7, 32), (32, 4), (0, 8), (-8, 8)])
def test_rejects_an_image_smaller_than_a_patch(image_size):
    with pytest.raises(UserError, match="smaller than a patch of 8x8 pixels"):
        load_clip(FOLDER, image_size=image_size)


def test_says_which_pixels_no_patch_covers(tmp_path, capsys):
    """The golden CLIP has patches of 8: 39 x 17 pixels are 4 x 2 patches, those of 32 x 16."""
    notices.print_once.cache_clear()
    config, params = load_clip(FOLDER, image_size=(39, 17))
    assert config.image_size == (39, 17) and config.grid == (4, 2)
    assert params["visual"]["positional_embedding"].shape == (1 + 8, 128)
    line = capsys.readouterr().err
    assert "image_size 39x17 is 4 x 2 patches of 8 pixels, which cover 32x16; the remaining 7 at the " in line
    assert line.count("\n") == 1
    covered = load_clip(FOLDER, image_size=(32, 16))
    np.testing.assert_array_equal(
        params["visual"]["positional_embedding"], covered[1]["visual"]["positional_embedding"]
    )
    assert not capsys.readouterr().err


def test_a_saved_folder_keeps_pixels_that_no_patch_covers(tmp_path):
    config, params = load_clip(FOLDER, image_size=(31, 9))  # 3 x 1 patches, exact in a square of 3 x 3
    save_clip(tmp_path, config, params)
    again, weights = load_clip(tmp_path)
    assert again == config
    positions = [tree["visual"]["positional_embedding"] for tree in (weights, params)]
    np.testing.assert_allclose(*positions, rtol=1e-6)


def test_missing_model(folder, monkeypatch):
    with pytest.raises(UserError, match="no such folder or file"):
        load_clip("/nowhere/at/all")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors: no such file"):
        load_clip(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json: cannot be read as JSON"):
        load_clip(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json: no such file"):
        load_clip(folder)


def test_downloads_a_hub_id(monkeypatch, tmp_path):
    client = pytest.importorskip("huggingface_hub")
    served = {file.name: file.read_bytes() for file in FOLDER.iterdir()}
    serve(monkeypatch, tmp_path / "cache", served)
    assert load_clip("someone/their-clip")[0].embed_dim == 48
    for name in ("model_info", "snapshot_download"):
        monkeypatch.setattr(client, name, unreachable)
    with pytest.raises(UserError, match=r"someone/their-clip.*no route to host") as error:
        load_clip("someone/their-clip")
    assert "\n" not in str(error.value)


def test_rejects_openai_names_that_do_not_fit(golden):
    config, params = from_hugging_face(*golden)
    state = to_openai(params, config)
    short = {name: array for name, array in state.items() if name != "ln_final.bias"}
    with pytest.raises(UserError, match=r"'ln_final.bias' of shape \[64\] is missing"):
        from_openai(short)
    with pytest.raises(UserError, match="'odd' of shape"):
        from_openai(state | {"odd": np.zeros(3)})
    with pytest.raises(UserError, match=r"'visual.conv1.weight' is missing"):
        from_openai({"w": np.zeros(3)})
    with pytest.raises(UserError, match=r"'visual.proj' has shape \[128, 3\], expected \[128, 48\]"):
        from_openai(state | {"visual.proj": np.zeros((128, 3))})
