"""CLIP's weights and configs that do not fit are reported with a remedy."""

import numpy as np
import pytest

from tests.clip_folder import FOLDER, copy_golden, edit_json, edit_state, read_golden
from tpr_jax.errors import UserError
from tpr_jax.weights.clip import find_clip, from_hugging_face, from_openai, load_clip, to_openai, weight_files


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


@pytest.mark.parametrize("image_size", [(30, 32), (32, 4), (0, 8), (-8, 8)])
def test_rejects_an_image_size_that_patches_do_not_tile(image_size):
    with pytest.raises(UserError, match="not a multiple of the patch size 8"):
        load_clip(FOLDER, image_size=image_size)


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


def test_downloads_a_hub_id(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **_: str(FOLDER))
    assert load_clip("someone/their-clip")[0].embed_dim == 48

    def offline(name, **_):
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"someone/their-clip.*no route to host") as error:
        load_clip("someone/their-clip")
    assert "\n" not in str(error.value)


def test_downloads_the_pickle_if_there_are_no_safetensors(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(name, allow_patterns):
        asked.append(allow_patterns)
        (tmp_path / "config.json").write_text((FOLDER / "config.json").read_text())
        if "pytorch_model.bin" in allow_patterns:
            (tmp_path / "pytorch_model.bin").write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert weight_files(find_clip("someone/their-clip")) == [tmp_path / "pytorch_model.bin"]
    assert len(asked) == 2 and "pytorch_model.bin" not in asked[0]


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
