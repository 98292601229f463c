"""Longer text towers."""

import dataclasses
import shutil

import numpy as np
import pytest

import tpr_jax
from tests.clip_folder import edit_json, edit_state
from tests.saved_models import SQUARE, assert_close, write_backbone
from tests.siglip_folder import write_siglip
from tests.tiny_clip import quick_compilation, random_like  # noqa: F401
from tpr_jax.errors import UserError
from tpr_jax.model import make_model
from tpr_jax.models import clip, methods
from tpr_jax.models.clip import declare
from tpr_jax.weights import backbone
from tpr_jax.weights.clip import load_clip
from tpr_jax.weights.files import read_state
from tpr_jax.weights.text_positions import join_long_positions, stretch_positions, with_text_positions


def test_stretching_keeps_the_first_rows_and_interpolates_the_others():
    """Rows 20 to 76 of CLIP's table become rows 20 to 247, four for each, as by PyTorch's `interpolate`."""
    ramp = np.arange(77.0)[:, None] ** 1.5
    found = stretch_positions(ramp, 248)
    assert found.shape == (248, 1)
    np.testing.assert_array_equal(found[:20], ramp[:20])
    for i in (20, 100, 247):
        at = np.clip((i - 20 + 0.5) * 57 / 228 - 0.5, 0, 56) + 20
        low = int(at)
        expected = ramp[low, 0] + (at - low) * (ramp[min(low + 1, 76), 0] - ramp[low, 0])
        np.testing.assert_allclose(found[i, 0], expected)


def test_a_short_table_keeps_its_first_half():
    found = stretch_positions(np.arange(6, dtype=np.float32)[:, None], 9)
    np.testing.assert_allclose(found[:, 0], [0, 1, 2, 3, 3.25, 3.75, 4.25, 4.75, 5])
    assert found.dtype == np.float32


def test_a_long_table_stays():
    params = {"text": {"positional_embedding": np.ones((7, 2), np.float32)}}
    assert with_text_positions(params, SQUARE) is params
    longer = with_text_positions(params, dataclasses.replace(SQUARE, context_length=11))
    assert longer["text"]["positional_embedding"].shape == (11, 2)


def test_joins_the_tables_of_long_clip():
    first, second = np.zeros((25, 2)), np.ones((25, 2))
    tables = {"positional_embedding": first, "positional_embedding_res": second, "w": first}
    found = join_long_positions(tables, "w")
    assert set(found) == {"positional_embedding", "w"}
    assert found["positional_embedding"][:, 0].tolist() == [0] * 20 + [1] * 5
    assert join_long_positions({"w": first}, "w") == {"w": first}
    with pytest.raises(
        UserError, match=r"has shape \[25, 2\], expected that of 'positional_embedding', \[0\]"
    ):
        join_long_positions({"positional_embedding_res": second}, "w")


@pytest.mark.parametrize("suffix", ["", ".weight"])
@pytest.mark.parametrize("model_type", ["clip", "longclip"])
def test_long_clip_in_the_form_of_hugging_face(tmp_path, model_type, suffix):
    """Its code adds a second table and masks that select rows; a CLIP with the joined table is the same."""
    sizes = dataclasses.replace(SQUARE, context_length=25)
    folder, joined = write_backbone(tmp_path / "long", config=sizes), tmp_path / "joined"
    name = "text_model.embeddings.position_embedding"
    second = np.random.default_rng(0).normal(size=(25, sizes.text_width)).astype(np.float32)
    shutil.copytree(folder, joined)
    first = read_state(folder / "model.safetensors")[f"{name}.weight"]
    edit_state(joined, **{f"{name}.weight": np.concatenate([first[:20], second[20:]])})
    mask = np.zeros((25, 1), np.float32)
    edit_state(folder, **{f"{name}_res{suffix}": second, "text_model.embeddings.mask1": mask})
    edit_json(folder / "config.json", model_type=model_type)
    if model_type == "longclip":
        edit_json(folder / "config.json", auto_map={"AutoModel": "modeling_longclip.LongCLIPModel"})
    found, expected = tpr_jax.from_pretrained(folder), tpr_jax.from_pretrained(joined)
    assert found.config == expected.config and found.config.context_length == 25
    assert_close(found, expected, 1e-9)


def test_a_saved_model_keeps_its_longer_captions(tmp_path):
    """It refers to a backbone with the original positions."""
    folder = write_backbone(tmp_path / "clip")
    config, params = load_clip(folder)
    config = dataclasses.replace(config, context_length=11)
    params = with_text_positions(params, config)
    shapes = declare(config, methods.lora(rank=2))
    variables = random_like({"lora": shapes["lora"]}, 1) | {"params": params}
    model = make_model(config, methods.lora(rank=2), variables, backbone=backbone.find(folder))
    model.save_pretrained(tmp_path / "model")
    again = tpr_jax.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    assert_close(again, model)
    np.testing.assert_array_equal(
        again.variables["params"]["text"]["positional_embedding"], params["text"]["positional_embedding"]
    )


def test_a_stretched_siglip_pads_to_its_new_length_and_reads_the_feature_at_its_end(tmp_path):
    folder = write_siglip(tmp_path / "own")
    config, params, tokenizer = backbone.load(folder, (32, 32), 24, stretch_text=True)
    assert config.context_length == tokenizer.context_length == 24
    assert params["text"]["positional_embedding"].shape == (24, 128)
    ids = tokenizer(["bag"])
    assert ids.shape == (1, 24)
    functions = clip.build(config, methods.zero_shot())
    feats, _ = functions["encode_text"]({"params": params}, ids)
    changed = params["text"]["positional_embedding"].copy()
    changed[-1, :64] += 1  # not all of them: LayerNorm would subtract it
    moved = params | {"text": params["text"] | {"positional_embedding": changed}}
    found, _ = functions["encode_text"]({"params": moved}, ids)
    assert np.isfinite(feats).all() and np.abs(found - feats).max() > 1e-3
