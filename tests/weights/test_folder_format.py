"""Which form a folder is read in, and which of its files are the weights; `test_hub` does so for the hub."""

import json
import shutil

import pytest

from tests.clip_folder import OPEN_CLIP, copy_open_clip
from tpr_jax.errors import UserError
from tpr_jax.weights import backbone, folder_format
from tpr_jax.weights.clip import load_clip


@pytest.mark.parametrize("name", ["model.safetensors", "open_clip_model.safetensors"])
def test_names_of_the_weights(tmp_path, name):
    folder = copy_open_clip(tmp_path)
    (folder / "open_clip_model.safetensors").rename(folder / name)
    assert load_clip(folder)[0].vision_heads == 4
    (folder / name).unlink()
    with pytest.raises(UserError, match=r"open_clip_model.safetensors: no such file"):
        load_clip(folder)


def test_the_image_towers_files_of_timm_are_not_read(tmp_path):
    """Some repositories also hold the image tower alone, under the names of a whole model."""
    folder = copy_open_clip(tmp_path)
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_clip_224"}))
    (folder / "model.safetensors").write_bytes(b"")
    assert load_clip(folder)[0].vision_heads == 4


def test_a_hugging_face_folder_stays_one(tmp_path):
    shutil.copytree(OPEN_CLIP.parent / "hf_clip", tmp_path, dirs_exist_ok=True)
    before = load_clip(tmp_path)[0], backbone.sha256(tmp_path)
    copy_open_clip(tmp_path)
    assert (load_clip(tmp_path)[0], backbone.sha256(tmp_path)) == before


def test_a_file_and_an_empty_folder_are_not_in_openclips_form(tmp_path):
    assert folder_format.is_open_clip(OPEN_CLIP)
    assert not folder_format.is_open_clip(tmp_path)
    assert not folder_format.is_open_clip(OPEN_CLIP / "open_clip_model.safetensors")


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_config_beside_openclips_is_not_read(tmp_path, content):
    folder = copy_open_clip(tmp_path)
    (folder / "config.json").write_text(content)
    assert folder_format.is_open_clip(folder)
