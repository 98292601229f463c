"""Loading the CLIP that a config names, with its tokenizer."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers

import tpr_jax
from tests.saved_models import SQUARE, trained, write_backbone
from tests.tiny_clip import SETTINGS, quick_compilation  # noqa: F401
from tpr_jax.data.tokenizer import clip_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models import methods
from tpr_jax.models.config import BUNDLED
from tpr_jax.models.methods import METHODS
from tpr_jax.utils.trees import flatten
from tpr_jax.weights import backbone
from tpr_jax.weights.clip import load_clip, read_sizes


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
    monkeypatch.setattr(backbone, "bundled_dir", lambda name: Path(tiny["clip"]))
    assert backbone.load("clip-mini", (32, 16))[0].text_width == 64


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models_are_found_by_name_and_by_folder(name):
    folder = backbone.bundled_dir(name)
    assert folder.name == name.replace("-", "_") and (folder / "model.safetensors").is_file()
    assert backbone.find(name) == backbone.Backbone(name, folder)
    assert backbone.find(folder).name == name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8e6


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


@pytest.fixture(scope="module")
def clips_vocabulary(tmp_path_factory):
    """Returns a CLIP with CLIP's own vocabulary, in a folder as Hugging Face publishes it."""
    folder = tmp_path_factory.mktemp("own") / "clip"
    write_backbone(folder, config=dataclasses.replace(SQUARE, vocab_size=49408, context_length=77))
    clip_tokenizer().save(folder / "tokenizer.json")
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    (word,) = (word for word, i in vocab.items() if i == 49405)
    del vocab[word]
    vocab["jekyll</w>"] = 49405  # the last merge there
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] != 49405]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


# By hand, as `ftfy` and two rounds of HTML entities: wrongly decoded bytes, curly quotes, a ligature and a
# full-width letter, an ideographic space, a composed letter.
CLEANED = {
    "A man in a RED coat": "a man in a red coat",
    "she\u00e2\u0080\u0099s in a caf\u00c3\u00a9": "she's in a caf\u00e9",
    "it\u2019s a man\u2019s \u201chat\u201d": "it's a man's \"hat\"",
    "a &amp;lt; b &amp; c": "a < b & c",
    "\ufb01ne \uff21 dress": "fine a dress",
    "a\u00a0woman\u3000in red": "a woman in red",
    "e\u0301t\u00e9": "\u00e9t\u00e9",
}


@pytest.mark.parametrize(("text", "cleaned"), CLEANED.items())
def test_texts_are_cleaned_alike_everywhere(clips_vocabulary, tiny, text, cleaned):
    """Training and `from_pretrained` encode the clean form, with CLIP's vocabulary or another one."""
    expected = clip_tokenizer()([cleaned])
    for folder in (clips_vocabulary, Path(tiny["clip"])):
        trained_with = backbone.backbone_tokenizer(folder, read_sizes(folder))
        loaded = tpr_jax.from_pretrained(folder).tokenizer
        if folder != clips_vocabulary:
            expected = loaded([cleaned])
        for tokenizer in (trained_with, loaded):
            np.testing.assert_array_equal(tokenizer([text]), expected)


def test_the_size_alone_does_not_make_a_vocabulary_clips(clips_vocabulary, tmp_path):
    folder = Path(shutil.copytree(clips_vocabulary, tmp_path / "other"))
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    first, second = (next(word for word, i in vocab.items() if i == wanted) for wanted in (320, 321))
    vocab[first], vocab[second] = 321, 320
    (folder / "tokenizer.json").write_text(json.dumps(content))
    ids = [backbone.backbone_tokenizer(f, read_sizes(f))(["a"]) for f in (clips_vocabulary, folder)]
    assert (ids[0][0, 1], ids[1][0, 1]) == (320, 321)


@pytest.mark.parametrize("method", [methods.zero_shot(), methods.full_finetune()], ids=lambda m: m.name)
def test_a_saved_clip_encodes_texts_as_before(clips_vocabulary, tmp_path, method):
    """Also in other programs, which read the file without this package's cleaning; and with shorter texts."""
    model = trained(clips_vocabulary, method, (32, 32))
    tokenizer = clip_tokenizer(9)
    model = dataclasses.replace(model, tokenizer=tokenizer, backbone=None)
    model.save_pretrained(tmp_path / "saved")
    again = tpr_jax.from_pretrained(tmp_path / "saved").tokenizer
    texts = [*CLEANED, "a man " * 20]
    np.testing.assert_array_equal(again(texts), tokenizer(texts))
    others = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert (
        others.encode("A man in a RED coat").ids == clip_tokenizer()(["a man in a red coat"])[0, :8].tolist()
    )


# A run's model as the backbone of a further run


def in_a_run(folder, model):
    """Saves a model as a run does; returns the run's folder."""
    model.save_pretrained(folder / "model")
    (folder / "config.json").write_text(json.dumps(dict.fromkeys(backbone.RUN_KEYS)))
    return folder


@pytest.mark.parametrize("form", ["run", "model"])
def test_a_run_that_trained_all_of_clip_is_a_backbone(form, tmp_path):
    model = trained(write_backbone(tmp_path / "clip"), methods.full_finetune())
    run = in_a_run(tmp_path / "run", model)
    config, params = load_clip(backbone.find(run if form == "run" else run / "model").path, (12, 4))
    assert config.image_size == (12, 4)
    for path, leaf in flatten(model.variables["params"]).items():
        np.testing.assert_allclose(flatten(params)[path], leaf, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("method", [methods.lora(rank=2), methods.bitfit()], ids=["lora", "bitfit"])
def test_weights_that_fold_into_clip_are_a_backbone_after_that(method, tmp_path):
    model = trained(write_backbone(tmp_path / "clip"), method)
    run = in_a_run(tmp_path / "run", model)
    command = rf"python -c \"(.*from_pretrained\('{run}/model'\).*\('NEW'\))\", and give NEW$"
    with pytest.raises(UserError, match=command) as raised:
        load_clip(backbone.find(run).path)
    assert f"holds what method '{method.name}' trained" in str(raised.value)
    code = re.search(command, str(raised.value))[1].replace("NEW", str(tmp_path / "new"))
    exec(code)
    _, params = load_clip(backbone.find(tmp_path / "new").path, (12, 4))
    merged = flatten(model.merge().variables["params"])
    for path, leaf in flatten(params).items():
        np.testing.assert_allclose(leaf, merged[path], atol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", ["parallel_adapter", "prefix", "prompts", "lora_moe", "up_person"])
def test_adapters_cannot_be_part_of_a_backbone(name, tmp_path):
    model = trained(write_backbone(tmp_path / "clip"), METHODS[name](**SETTINGS.get(name, {})))
    run = in_a_run(tmp_path / "run", model)
    told = f"{run}/model: holds what method '{name}' trained.* cannot be folded .* train with full_finetune"
    for read in (load_clip, read_sizes):
        with pytest.raises(UserError, match=told):
            read(backbone.find(run).path)


def test_positions_that_fit_no_folder_of_clip_are_told(tmp_path):
    model = trained(write_backbone(tmp_path / "clip"), methods.bitfit(), image_size=(12, 8)).merge()
    model.save_pretrained(tmp_path / "merged")
    with pytest.raises(UserError, match="its positions fit no folder of CLIP: train with images of 3:1"):
        load_clip(tmp_path / "merged")
