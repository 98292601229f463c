"""Loading the CLIP that a config names, with its tokenizer."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tpr_jax.data.tokenizer import clip_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.weights import backbone
from tpr_jax.weights.clip import load_clip


def test_loads_the_weights_and_tokenizer_of_a_folder(tiny):
    config, params, tokenizer = backbone.load(tiny["clip"], (32, 16))
    _, expected = load_clip(tiny["clip"])
    np.testing.assert_array_equal(params["visual"]["proj"], expected["visual"]["proj"])
    assert config.image_size == (32, 16)
    assert tokenizer.vocab_size == config.vocab_size and tokenizer.context_length == 24
    ids = tokenizer(["A person in a red coat"])
    assert ids.shape == (1, 24) and ids.max() == config.eot_id == tokenizer.eot_id


def test_resizes_positions_to_the_image_size(tiny):
    config, params, _ = backbone.load(tiny["clip"], (48, 24))
    assert config.grid == (6, 3) and params["visual"]["positional_embedding"].shape == (1 + 18, 64)


def test_reads_only_sizes_and_tokenizer_without_weights(tiny, own_clip):
    (own_clip / "model.safetensors").unlink()
    config, params, tokenizer = backbone.load(str(own_clip), (48, 24), with_weights=False)
    assert params is None and config.image_size == (48, 24) and config.text_width == 64
    assert tokenizer.vocab_size == config.vocab_size
    with pytest.raises(UserError, match=r"model.safetensors: no such file"):
        backbone.load(str(own_clip), (32, 16))
    with pytest.raises(UserError, match="image_size 4x16 is smaller than a patch of 8x8"):
        backbone.load(str(own_clip), (4, 16), with_weights=False)


def test_a_folder_without_tokenizer(own_clip):
    (own_clip / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=str(own_clip)):
        backbone.load(str(own_clip), (32, 16))


def test_clips_vocabulary_gets_the_reference_tokenizer(own_clip, monkeypatch):
    """It has the mask token, regardless of tokenizer.json."""
    path = own_clip / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= {"vocab_size": 49408, "max_position_embeddings": 77}
    path.write_text(json.dumps(config))
    (own_clip / "tokenizer.json").unlink()
    _, _, tokenizer = backbone.load(str(own_clip), (32, 16), with_weights=False)
    assert (tokenizer.mask_id, tokenizer.sot_id, tokenizer.eot_id) == (49405, 49406, 49407)
    np.testing.assert_array_equal(tokenizer(["a red coat"]), clip_tokenizer()(["a red coat"]))


def test_clip_mini_is_the_bundled_folder(tiny, monkeypatch):
    assert backbone.clip_mini_dir().endswith("tpr_jax/weights/clip_mini")
    monkeypatch.setattr(backbone, "clip_mini_dir", lambda: tiny["clip"])
    assert backbone.load("clip-mini", (32, 16))[0].text_width == 64


def test_missing_model():
    with pytest.raises(UserError, match="/no/such/clip: no such folder or file of CLIP weights"):
        backbone.load("/no/such/clip", (32, 16))


def test_backbone_names(tiny, monkeypatch):
    folder = Path(tiny["clip"])
    assert backbone.find("clip-mini") == backbone.Backbone("clip-mini", Path(backbone.clip_mini_dir()))
    assert backbone.find(backbone.clip_mini_dir()).name == "clip-mini"
    # The name of a folder is absolute.
    monkeypatch.chdir(folder.parent)
    assert backbone.find("clip") == backbone.Backbone(str(folder.resolve()), Path("clip"))
    with pytest.raises(UserError, match="/no/such/clip"):
        backbone.find("/no/such/clip")


def test_sha256_of_the_weights_file(own_clip, tmp_path):
    content = (own_clip / "model.safetensors").read_bytes()
    wanted = hashlib.sha256(content).hexdigest()
    assert backbone.sha256(own_clip) == backbone.sha256(own_clip / "model.safetensors") == wanted
    (own_clip / "model.safetensors").rename(own_clip / "b.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors: no such file"):
        backbone.sha256(own_clip)
    (own_clip / "a.safetensors").write_bytes(b"first")
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}
    (own_clip / "model.safetensors.index.json").write_text(json.dumps(index))
    assert backbone.sha256(own_clip) == hashlib.sha256(b"first" + content).hexdigest()
