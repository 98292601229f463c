"""Values of a CLIP's config.json are followed, or rejected in one line that names them."""

import json

import numpy as np
import pytest

import tpr_jax
from tests.clip_folder import FOLDER, copy_golden, edit_json, edit_state, read_golden
from tests.tiny_clip import quick_compilation  # noqa: F401
from tpr_jax.errors import UserError
from tpr_jax.weights.clip import load_clip
from tpr_jax.weights.hugging_face import read_config
from tpr_jax.weights.resize import resize_positions


@pytest.fixture
def folder(tmp_path):
    return copy_golden(tmp_path)


def feats(folder, seed=0, **settings):
    model = tpr_jax.from_pretrained(folder, **settings)
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((2, *model.config.image_size, 3)).astype(np.float32)
    return model.features_from_arrays(images, np.array([[158, 5, 6, 159, 0, 0], [158, 7, 159, 8, 9, 159]]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (f"text_config__{key}", value)
            for key in ("vocab_size", "hidden_size")
            for value in ("64", 0, 1.5, True)
        ),
        *(
            (f"vision_config__{key}", value)
            for key in ("intermediate_size", "num_hidden_layers")
            for value in (-1, [3])
        ),
        *(("text_config__eos_token_id", value) for value in ("2", -1, [1, 2], 160, 49407)),
        *(("vision_config__patch_size", value) for value in (0, [8, 4], "8", [8])),
        *(("vision_config__image_size", value) for value in (0, 4, [32], [32, 0], "32")),
        *(("projection_dim", value) for value in (0, "48", 48.0)),
        *(("logit_scale_init_value", value) for value in ("x", [1])),
        ("quantization_config", {"bits": 8}),
    ],
)
def test_reports_an_unusable_value(folder, key, value):
    edit_json(folder / "config.json", **{key: value})
    with pytest.raises(UserError, match=key.rpartition("__")[2]) as error:
        load_clip(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["1e-5", 0, -1e-5, 2, True])
def test_reports_an_unusable_epsilon(folder, value):
    edit_json(folder / "config.json", vision_config__layer_norm_eps=value, text_config__layer_norm_eps=value)
    with pytest.raises(UserError, match=r"layer_norm_eps is .*expected a small number"):
        load_clip(folder)


@pytest.mark.parametrize(("key", "value"), [("layer_norm_eps", 1e-3), ("hidden_act", "gelu")])
def test_rejects_towers_that_differ(folder, key, value):
    edit_json(folder / "config.json", **{f"text_config__{key}": value})
    with pytest.raises(UserError, match=f"{key} differs between the towers"):
        load_clip(folder)


def test_follows_layer_norm_eps(folder):
    before = feats(folder)
    edit_json(folder / "config.json", vision_config__layer_norm_eps=0.5, text_config__layer_norm_eps=0.5)
    for a, b in zip(before, feats(folder), strict=True):
        assert np.abs(a - b).max() > 1e-3


def test_follows_eos_token_id(folder):
    """The first such id, or the highest if it is 2, as in early files."""
    _, by_eos = feats(folder)
    edit_json(folder / "config.json", text_config__eos_token_id=[159])
    np.testing.assert_array_equal(feats(folder)[1], by_eos)
    edit_json(folder / "config.json", text_config__eos_token_id=2)
    np.testing.assert_allclose(feats(folder)[1], by_eos, atol=1e-6)  # 159 is the highest
    edit_json(folder / "config.json", text_config__eos_token_id=6)
    other = feats(folder)[1]
    assert np.abs(other[0] - by_eos[0]).max() > 1e-3


def test_images_that_are_not_square(folder):
    """The grid of patches has the rows and columns of the config."""
    edit_json(folder / "config.json", vision_config__image_size=[64, 16], vision_config__patch_size=[8, 8])
    rows = np.random.default_rng(0).standard_normal((17, 128)).astype(np.float32)
    edit_state(folder, vision_model__embeddings__position_embedding__weight=rows)
    config, params = load_clip(folder)
    assert config.image_size == (64, 16) and config.grid == (8, 2)
    np.testing.assert_array_equal(params["visual"]["positional_embedding"], rows)
    _, resized = load_clip(folder, image_size=(32, 32))
    np.testing.assert_array_equal(
        resized["visual"]["positional_embedding"], resize_positions(rows, (8, 2), (4, 4))
    )


def test_temperature_of_the_config_if_the_weights_have_none(folder):
    edit_state(folder, logit_scale=None)
    assert load_clip(folder)[0].logit_scale == 2.6592


def test_ignores_keys_that_do_not_matter(folder):
    before = feats(folder)
    keys = ("attention_dropout", "initializer_factor", "initializer_range", "projection_dim", "bos_token_id")
    for tower in ("vision_config", "text_config"):
        edit_json(folder / "config.json", **{f"{tower}__{key}": 7 for key in keys})
    for a, b in zip(before, feats(folder), strict=True):
        np.testing.assert_array_equal(a, b)


def test_null_means_the_default():
    _, config = read_golden()
    config = json.loads(json.dumps(config)) | {"projection_dim": None, "logit_scale_init_value": None}
    config["vision_config"]["patch_size"] = config["text_config"]["eos_token_id"] = None
    config["text_config"]["vocab_size"] = 49408
    found = read_config(config)
    assert (found.embed_dim, found.patch_size, found.eot_id) == (512, 32, 49407)


def test_loads_the_model_of_a_runs_folder(tmp_path):
    import shutil

    run = {"dataset": "cuhk_pedes", "mix": [], "method": {}, "losses": {}}
    (tmp_path / "config.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match=r"is a run without a model/.*rerun the same command to finish it"):
        tpr_jax.from_pretrained(tmp_path)
    shutil.copytree(FOLDER, tmp_path / "model")
    assert tpr_jax.from_pretrained(tmp_path).backbone.name == str(tmp_path / "model")


def tower(**values) -> dict:
    """Returns a tower's section as older versions of transformers wrote it, with keys that are not read."""
    extra = {
        "_name_or_path": "", "add_cross_attention": False, "architectures": None, "attention_dropout": 0.0,
        "bad_words_ids": None, "dropout": 0.0, "finetuning_task": None, "id2label": {"0": "LABEL_0"},
        "initializer_factor": 1.0, "initializer_range": 0.02, "num_beams": 1, "prefix": None,
        "projection_dim": 512, "tokenizer_class": None, "torch_dtype": None, "transformers_version": "4.24.0",
    }  # fmt: skip
    return extra | values


# Configs in the form of published models: (config.json, what is read).
PUBLISHED = {
    "laion_h14": (
        {
            "architectures": ["CLIPModel"],
            "projection_dim": 1024,
            "text_config": tower(
                hidden_act="gelu", hidden_size=1024, intermediate_size=4096, num_attention_heads=16,
                num_hidden_layers=24, bos_token_id=0, eos_token_id=2, pad_token_id=1, length_penalty=1.0,
            ),
            "text_config_dict": {
                "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096,
                "num_attention_heads": 16, "num_hidden_layers": 24, "projection_dim": 1024,
            },
            "vision_config": tower(
                hidden_act="gelu", hidden_size=1280, intermediate_size=5120, num_attention_heads=16,
                num_hidden_layers=32, patch_size=14, image_size=224,
            ),
            "vision_config_dict": {"hidden_act": "gelu", "hidden_size": 1280, "num_attention_heads": 16},
            "logit_scale_init_value": 2.6592, "torch_dtype": "float32", "transformers_version": None,
        },
        {"act": "gelu", "vision_heads": 16, "vision_layers": 32, "text_layers": 24, "eot_id": None,
         "embed_dim": 1024, "grid": (16, 16)},
    ),
    "datacomp_b32_256": (
        {
            "projection_dim": 512, "text_config_dict": None,
            "text_config": tower(hidden_act="gelu", eos_token_id=49407, pad_token_id=0),
            "vision_config": tower(hidden_act="gelu", image_size=256, patch_size=32),
        },
        {"act": "gelu", "image_size": (256, 256), "grid": (8, 8), "eot_id": 49407},
    ),
    "dfn_b16": (
        {
            "projection_dim": 512, "text_config": tower(hidden_act="quick_gelu", layer_norm_eps=1e-05),
            "vision_config": tower(hidden_act="quick_gelu", patch_size=16, layer_norm_eps=1e-05),
        },
        {"act": "quick_gelu", "patch_size": 16, "eot_id": 49407},
    ),
    "metaclip_b32": (
        {
            "initializer_factor": 1.0, "projection_dim": 512,
            "text_config": {"dropout": 0.0, "hidden_size": 512, "model_type": "clip_text_model"},
            "vision_config": {"dropout": 0.0, "model_type": "clip_vision_model", "hidden_act": None},
        },
        {"act": "quick_gelu", "patch_size": 32, "vision_width": 768},
    ),
    "tiny_clip": (
        {
            "projection_dim": 512,
            "text_config": tower(
                hidden_act="gelu", hidden_size=256, intermediate_size=1024, num_attention_heads=4,
                num_hidden_layers=3, eos_token_id=49407,
            ),
            "vision_config": tower(
                hidden_act="gelu", hidden_size=256, intermediate_size=1024, num_attention_heads=4,
                num_hidden_layers=10, patch_size=16,
            ),
        },
        {"vision_heads": 4, "vision_layers": 10, "text_layers": 3, "text_mlp": 1024, "embed_dim": 512},
    ),
    "long_clip_l14": (
        {
            "projection_dim": 768,
            "text_config": tower(
                hidden_size=768, intermediate_size=3072, num_attention_heads=12, max_position_embeddings=248,
                eos_token_id=49407,
            ),
            "vision_config": tower(
                hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=24,
                patch_size=14,
            ),
        },
        {"context_length": 248, "text_width": 768, "vision_width": 1024},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_reads_configs_in_the_form_of_published_models(name):
    content, expected = PUBLISHED[name]
    config = read_config({"model_type": "clip", **content})
    assert {key: getattr(config, key) for key in expected} == expected


def test_rejects_a_model_with_code_of_its_own(folder):
    edit_json(folder / "config.json", auto_map={"AutoModel": "modeling_evaclip.EvaCLIPModel"})
    with pytest.raises(
        UserError, match=r"config.json: auto_map: the model \(CLIPModel\) needs code of its own"
    ):
        load_clip(folder)
