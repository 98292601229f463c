"""A file of weights: OpenAI's release is recognized, others need the activation and heads."""

import dataclasses
import json

import numpy as np
import pytest

import tpr_jax
from tests.clip_folder import read_golden
from tests.tiny_clip import quick_compilation  # noqa: F401
from tpr_jax.errors import UserError
from tpr_jax.model import make_model
from tpr_jax.models import methods
from tpr_jax.models.config import IMAGE_MEAN
from tpr_jax.utils import notices
from tpr_jax.weights import bare_file, reference
from tpr_jax.weights.backbone import Backbone
from tpr_jax.weights.clip import from_hugging_face, load_clip, save_clip, to_openai
from tpr_jax.weights.files import write_state

SCALARS = {"input_resolution": np.int64(32), "context_length": np.int64(16), "vocab_size": np.int64(160)}


@pytest.fixture(scope="module")
def golden():
    """Loads the golden CLIP; OpenAI's names do not include the end-of-text id."""
    config, params = from_hugging_face(*read_golden())
    return dataclasses.replace(config, eot_id=None), params


@pytest.fixture
def bare(golden, tmp_path):
    """Writes a file as LAION publishes them: only weights."""
    config, params = golden
    write_state(tmp_path / "open_clip_model.safetensors", to_openai(params, config))
    return tmp_path / "open_clip_model.safetensors"


def inputs():
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 150, (2, 16))
    ids[:, 9] = 159
    return rng.standard_normal((2, 32, 32, 3)).astype(np.float32), ids


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("heads", [(2, 1), (4, 2)])
def test_follows_act_and_heads(golden, bare, act, heads):
    config, params = golden
    wanted = dataclasses.replace(config, act=act, vision_heads=heads[0], text_heads=heads[1])
    model = tpr_jax.from_pretrained(bare, act=act, heads=heads)
    assert model.config == wanted
    by_hand = make_model(wanted, methods.zero_shot(), {"params": params}).features_from_arrays(*inputs())
    for found, right in zip(model.features_from_arrays(*inputs()), by_hand, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        ({}, "its activation and its heads"),
        ({"act": "gelu"}, "its heads"),
        ({"heads": (2, 1)}, "its activation"),
    ],
)
def test_requires_act_and_heads(bare, told, missing):
    with pytest.raises(UserError, match=f"does not record {missing}: pass act='gelu'.*heads=") as error:
        tpr_jax.from_pretrained(bare, **told)
    assert str(bare) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_file_of_a_hugging_face_folder(tmp_path, prefix):
    weights, _ = read_golden()
    path = tmp_path / "model.safetensors"
    write_state(path, {f"{prefix}{name}": array for name, array in weights.items()})
    with pytest.raises(UserError, match=r"Hugging Face's names of weights \('(text|vision)_model") as error:
        tpr_jax.from_pretrained(path, act="gelu", heads=(2, 1))
    told = str(error.value)
    assert told.startswith(f"{path}: ") and told.endswith(
        f": give the folder {tmp_path} in place of the file"
    )


def test_says_what_a_file_is_read_with(bare, capsys):
    notices.print_once.cache_clear()
    load_clip(bare, act="gelu", heads=(4, 2))
    assert f"{bare}: does not record its activation and heads; read with gelu, heads=(4, 2)" in (
        capsys.readouterr().err
    )


def test_follows_image_mean_and_std(bare):
    told = {"image_mean": (0.1, 0.2, 0.3), "image_std": [1, 2, 3]}
    model = tpr_jax.from_pretrained(bare, act="gelu", heads=(4, 2), **told)
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert tpr_jax.from_pretrained(bare, act="gelu", heads=(4, 2)).mean == IMAGE_MEAN


def test_long_clip_has_two_tables_of_text_positions(golden, bare):
    """The first 20 rows are those of the first table; the golden CLIP has 16, so a longer one is made."""
    config, params = golden
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 31, 64)).astype(np.float32)
    tables = {"positional_embedding": first, "positional_embedding_res": second}
    write_state(bare, to_openai(params, config) | tables)
    found, weights = load_clip(bare, act="quick_gelu", heads=(2, 1))
    assert found.context_length == 31
    np.testing.assert_array_equal(weights["text"]["positional_embedding"][:20], first[:20])
    np.testing.assert_array_equal(weights["text"]["positional_embedding"][20:], second[20:])
    write_state(bare, to_openai(params, config) | tables | {"positional_embedding_res": second[:30]})
    with pytest.raises(UserError, match=r"'positional_embedding_res' has shape \[30, 64\], expected that of"):
        load_clip(bare, act="quick_gelu", heads=(2, 1))


def test_recognizes_openais_release_with_a_notice(golden, bare, capsys):
    config, params = golden
    write_state(bare, to_openai(params, config) | SCALARS)
    notices.print_once.cache_clear()
    found, _ = load_clip(bare)
    assert (found.act, found.vision_heads, found.text_heads) == ("quick_gelu", 2, 1)
    line = capsys.readouterr().err
    assert (
        str(bare) in line
        and "OpenAI's own release: quick_gelu, heads=(2, 1)" in line
        and line.count("\n") == 1
    )
    told, _ = load_clip(bare, act="gelu", heads=(4, 1))
    assert (told.act, told.vision_heads) == ("gelu", 4)


def test_needs_all_entries_to_recognize_openais_release(golden, bare):
    config, params = golden
    write_state(bare, to_openai(params, config) | {"vocab_size": np.int64(160)})
    with pytest.raises(UserError, match="not recognized as OpenAI's"):
        load_clip(bare)


def test_does_not_recognize_widths_that_openai_never_released(golden, bare, monkeypatch):
    """ViT-H has the same names and entries, but heads of width 80."""
    config, params = golden
    write_state(bare, to_openai(params, config) | SCALARS)
    monkeypatch.setattr(bare_file, "WIDEST", 100)
    with pytest.raises(UserError, match="not recognized as OpenAI's"):
        load_clip(bare)
    assert [
        width
        for width in (64, 512, 640, 768, 1024, 1152, 1280, 1408, 96)
        if bare_file._is_openai_width(width)
    ] == [64]


@pytest.mark.parametrize("heads", [(3, 1), (2, 5), (129, 1)])
def test_rejects_heads_that_do_not_divide_the_width(bare, heads):
    with pytest.raises(UserError, match=r"heads=\d+ do not divide the (vision|text) tower's width of"):
        load_clip(bare, act="gelu", heads=heads)


def test_reports_another_kind_of_file(tmp_path):
    write_state(tmp_path / "w.safetensors", {"w": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"'visual.conv1.weight' is missing"):
        load_clip(tmp_path / "w.safetensors")


def test_act_and_heads_override_those_of_a_folder(golden, tmp_path):
    config, params = golden
    save_clip(tmp_path, dataclasses.replace(config, act="gelu"), params)
    assert tpr_jax.from_pretrained(tmp_path).config.act == "gelu"
    told = tpr_jax.from_pretrained(tmp_path, act="quick_gelu", heads=(4, 1)).config
    assert (told.act, told.vision_heads, told.text_heads) == ("quick_gelu", 4, 1)
    with pytest.raises(UserError, match="heads=3 do not divide"):
        tpr_jax.from_pretrained(tmp_path, heads=(3, 1))


def test_saved_folder_records_act_and_heads(bare, tmp_path):
    tpr_jax.from_pretrained(bare, act="gelu", heads=(4, 2)).save_pretrained(tmp_path / "folder")
    again = tpr_jax.from_pretrained(tmp_path / "folder").config
    assert (again.act, again.vision_heads, again.text_heads) == ("gelu", 4, 2)


@pytest.fixture
def adapted(bare, tmp_path):
    from tests.saved_models import random_like
    from tpr_jax.models.clip import declare

    config, params = load_clip(bare, act="gelu", heads=(4, 2))
    shapes = declare(config, methods.prefix(2))
    variables = random_like({"prefix": shapes["prefix"]}, 1) | {"params": params}
    model = make_model(config, methods.prefix(2), variables, backbone=Backbone(str(bare), bare))
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_adapted_model_records_act_and_heads(adapted):
    model, folder = adapted
    again = tpr_jax.from_pretrained(folder)
    assert again.config == model.config and again.config.act == "gelu"
    for found, right in zip(
        again.features_from_arrays(*inputs()), model.features_from_arrays(*inputs()), strict=True
    ):
        np.testing.assert_array_equal(found, right)
    with pytest.raises(UserError, match="records its own act: leave out act='gelu'"):
        tpr_jax.from_pretrained(folder, act="gelu")


@pytest.mark.parametrize(
    ("key", "value"), [("act", "relu"), ("heads", [4]), ("heads", [0, 1]), ("revision", 3)]
)
def test_reports_a_damaged_record(adapted, key, value):
    path = adapted[1] / "config.json"
    content = json.loads(path.read_text())
    content["backbone"][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"backbone.{key} has the invalid value"):
        tpr_jax.from_pretrained(adapted[1])


def test_models_of_the_first_version_keep_their_features(adapted):
    path = adapted[1] / "config.json"
    content = json.loads(path.read_text())
    del content["backbone"]["act"], content["backbone"]["heads"]
    path.write_text(json.dumps(content))
    config = tpr_jax.from_pretrained(adapted[1]).config
    assert (config.act, config.vision_heads, config.text_heads) == ("quick_gelu", 2, 1)


def test_training_needs_act_and_heads(bare, make_config):
    from tpr_jax.weights import backbone

    with pytest.raises(UserError, match=r"config.backbone_act and config.backbone_heads"):
        backbone.load(str(bare), (32, 16))
    config = make_config(backbone=bare, backbone_act="gelu", backbone_heads="(4,2)")
    found = backbone.find(config.backbone)
    clip = load_clip(found.path, (32, 16), config.backbone_act, tuple(config.backbone_heads))[0]
    assert (clip.act, clip.vision_heads, clip.text_heads) == ("gelu", 4, 2)


def test_prepare_passes_act_and_heads(own_clip, make_config):
    from tpr_jax.train.setup import prepare

    found = prepare(make_config(backbone=own_clip, backbone_act="gelu", backbone_heads="(2,4)")).clip_config
    assert (found.act, found.vision_heads, found.text_heads) == ("gelu", 2, 4)
    found = prepare(make_config(backbone=own_clip, backbone_act="gelu", from_scratch=True)).clip_config
    assert (found.act, found.vision_heads) == ("gelu", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone_act": "gellu"}, r"config.backbone_act='gellu' is unknown: did you mean 'gelu'"),
        ({"backbone_heads": "(12,)"}, r"config.backbone_heads=\(12,\) must be two whole numbers"),
        ({"backbone_heads": "(12,0)"}, "must be two whole numbers"),
    ],
)
def test_rejects_unusable_config_values(make_config, changes, message):
    with pytest.raises(UserError, match=message):
        make_config(**changes)


def test_authors_checkpoints_need_neither_act_nor_heads(golden):
    """All of them are based on OpenAI's CLIP."""
    config, params = golden
    state = {f"base_model.{name}": array for name, array in to_openai(params, config).items()}
    model = reference.load(state, method="irra")
    assert (model.config.act, model.config.vision_heads) == ("quick_gelu", 2)
