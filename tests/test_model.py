"""A loaded model: features of transformers, images and texts of all kinds, saving and loading."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import tpr_jax
from tools.train_tokenizer import train_tokenizer
from tpr_jax.data.mini_pedes import bundled_dir
from tpr_jax.data.records import load_records
from tpr_jax.errors import UserError
from tpr_jax.model import ENCODER_SOURCES, jit_encoder, make_model
from tpr_jax.models import clip
from tpr_jax.models.config import BUNDLED, ClipConfig
from tpr_jax.models.methods import dm_adapter, full_finetune, parallel_adapter, prefix
from tpr_jax.weights.clip import to_openai
from tpr_jax.weights.files import write_state

FOLDER = Path(__file__).parent / "golden" / "hf_clip"


@pytest.fixture(scope="module")
def model():
    return tpr_jax.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def expected():
    return load_file(FOLDER / "expected.safetensors")


@pytest.fixture
def with_tokenizer(tmp_path):
    """Returns the golden CLIP with a token embedding for a vocabulary of bytes and a few words."""
    folder = tmp_path / "clip"
    shutil.copytree(FOLDER, folder)
    size = train_tokenizer(["a red coat", "a blue coat"] * 2, 540, folder / "tokenizer.json")
    state = load_file(folder / "model.safetensors")
    rows = np.random.default_rng(0).standard_normal((size, 64)).astype(np.float32)
    write_state(folder / "model.safetensors", state | {"text_model.embeddings.token_embedding.weight": rows})
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"vocab_size": size, "eos_token_id": size - 1, "bos_token_id": size - 2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def drawn(config, method):
    """Returns variables of a model with random leaves."""
    shapes = clip.declare(config, method)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def assert_unit(feats):
    np.testing.assert_allclose(np.linalg.norm(feats, axis=1), 1, atol=1e-6)
    assert feats.dtype == np.float32


def test_features_match_transformers(model, expected):
    images = expected["in/images_nchw"].transpose(0, 2, 3, 1)
    image_feats, text_feats = model.features_from_arrays(images, expected["in/input_ids"])
    assert relative(image_feats, expected["out/image_feats"]) < 1e-5
    assert relative(text_feats, expected["out/text_feats"]) < 1e-5
    with pytest.raises(ValueError, match="expected"):
        model.features_from_arrays(images[:, :16], expected["in/input_ids"])


def test_encodes_every_kind_of_image(model, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    feats = model.encode_images(
        [pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png")]
    )
    assert feats.shape == (4, 48)
    assert_unit(feats)
    np.testing.assert_allclose(feats[1:], feats[:1].repeat(3, 0), atol=1e-6)
    # By hand: pixels normalized with CLIP's mean and std, features divided by their norm.
    normalized = (pixels / 255 - clip.IMAGE_MEAN) / clip.IMAGE_STD
    by_hand, _ = model.features_from_arrays(normalized[None], np.zeros((1, 16), np.int32))
    np.testing.assert_allclose(feats[:1], by_hand / np.linalg.norm(by_hand), atol=1e-5)
    assert model.encode_images([]).shape == (0, 48)
    with pytest.raises(UserError, match=r"nowhere.png"):
        model.encode_images([tmp_path / "nowhere.png"])


def test_batches_do_not_change_features(model):
    images = list(np.random.default_rng(1).integers(256, size=(5, 40, 20, 3), dtype=np.uint8))
    whole = model.encode_images(images)
    np.testing.assert_allclose(model.encode_images(images, batch_size=2), whole, atol=1e-6)


@pytest.mark.parametrize(("settings", "expected"), [({}, [3, 3]), ({"batch_size": 4}, [4, 4])])
def test_takes_as_many_images_at_once_as_the_machine_likes(model, monkeypatch, settings, expected):
    """The last batch is padded."""
    seen, (encoder, *others) = [], model.encoders

    def note(variables, pixels):
        seen.append(len(pixels))
        return encoder(variables, pixels)

    monkeypatch.setattr("tpr_jax.model.images_at_once", lambda config: 3)
    noted = dataclasses.replace(model)
    noted.__dict__["encoders"] = (note, *others)
    noted.encode_images([np.zeros((40, 20, 3), np.uint8)] * 5, **settings)
    assert seen == expected


def test_uses_the_mean_and_size_of_the_folder(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "clip")
    settings = {"size": {"height": 16, "width": 8}, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(settings))
    model = tpr_jax.from_pretrained(tmp_path / "clip")
    assert model.config.image_size == (16, 8)
    pixels = np.random.default_rng(2).integers(256, size=(16, 8, 3), dtype=np.uint8)
    by_hand, _ = model.features_from_arrays(pixels[None] / 255, np.zeros((1, 16), np.int32))
    np.testing.assert_allclose(
        model.encode_images([pixels])[0], by_hand[0] / np.linalg.norm(by_hand), atol=1e-5
    )
    model.save_pretrained(tmp_path / "again")
    again = tpr_jax.from_pretrained(tmp_path / "again")
    np.testing.assert_allclose(again.encode_images([pixels]), model.encode_images([pixels]), atol=1e-4)
    assert again.mean == (0, 0, 0) and again.config == model.config


def test_only_texts_need_a_tokenizer(model):
    with pytest.raises(UserError, match=r"hf_clip: has no tokenizer.json"):
        model.encode_texts(["a red coat"])


def test_texts(with_tokenizer):
    model = tpr_jax.from_pretrained(with_tokenizer, image_size=(32, 16))
    assert model.config.image_size == (32, 16)
    feats = model.encode_texts(["a red coat", "a blue coat", "A RED  coat", "", "x" * 999], batch_size=2)
    assert feats.shape == (5, 48)
    assert_unit(feats)
    np.testing.assert_allclose(feats[0], feats[2], atol=1e-6)
    assert np.abs(feats[0] - feats[1]).max() > 1e-3
    assert model.encode_texts([]).shape == (0, 48)


def test_rejects_a_tokenizer_of_another_vocabulary(with_tokenizer):
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(FOLDER / name, with_tokenizer / name)
    with pytest.raises(UserError, match=r"gives id 522, but its text tower has 160 ids"):
        tpr_jax.from_pretrained(with_tokenizer).encode_texts(["a red coat"])


def test_counts_parameters(model):
    state = load_file(FOLDER / "model.safetensors")
    total = sum(array.size for name, array in state.items() if name != "logit_scale")
    assert model.num_params() == {"trainable": 0, "total": total}
    everything = make_model(model.config, full_finetune(), model.variables)
    assert everything.num_params() == {"trainable": total, "total": total}


def test_repr_is_one_line_without_arrays(model):
    total = model.num_params()["total"]
    assert repr(model) == (
        f"Model(source={str(FOLDER)!r}, method='zero_shot', backbone={str(FOLDER)!r}, image_size=(32, 32), "
        f"dtype='float32', num_params={{'trainable': 0, 'total': {total}}})"
    )
    method = parallel_adapter(reduction=4)
    adapted = make_model(model.config, method, drawn(model.config, method))
    assert len(repr(adapted)) < 300 and "method='parallel_adapter', backbone=None" in repr(adapted)


@pytest.mark.parametrize("method", [dm_adapter(num_experts=3, top_k=2), parallel_adapter(reduction=4)])
def test_save_and_load_an_adapted_model(with_tokenizer, tmp_path, method):
    plain = tpr_jax.from_pretrained(with_tokenizer, image_size=(24, 8))
    variables = drawn(plain.config, method) | {"params": plain.variables["params"]}
    model = make_model(plain.config, method, variables, tokenizer=plain.tokenizer, backbone=plain.backbone)
    model.save_pretrained(tmp_path / "saved")
    again = tpr_jax.from_pretrained(tmp_path / "saved")
    assert again.method == method and again.config == plain.config
    assert again.num_params() == model.num_params()
    jax.tree.map(np.testing.assert_array_equal, dict(again.variables), dict(model.variables))
    texts = ["a red coat"]
    np.testing.assert_array_equal(again.encode_texts(texts), model.encode_texts(texts))
    assert np.abs(again.encode_texts(texts) - plain.encode_texts(texts)).max() > 1e-4


def test_rejects_weights_that_do_not_fit_the_method(model):
    variables = drawn(model.config, dm_adapter())
    with pytest.raises(UserError, match=r"weight 'moe/.*expected .* found"):
        make_model(model.config, dm_adapter(num_experts=3, top_k=2), variables)


def test_saves_the_backbone_of_a_model_built_by_hand(model, tmp_path):
    method = prefix(2)
    config = dataclasses.replace(model.config, image_size=(32, 32))
    made = make_model(
        config, method, drawn(config, method), mean=(0, 0, 0), std=(1, 0.5, 1), dtype="bfloat16"
    )
    made.save_pretrained(tmp_path)
    again = tpr_jax.from_pretrained(tmp_path, dtype="bfloat16")
    assert (again.mean, again.std, again.dtype) == ((0, 0, 0), (1, 0.5, 1), "bfloat16")
    jax.tree.map(np.testing.assert_array_equal, dict(again.variables), dict(made.variables))
    assert again.merge().dtype == "bfloat16" and again.merge().mean == (0, 0, 0)


@pytest.mark.parametrize("tower", ["encode_image", "encode_text"])
def test_stored_encoders_depend_on_all_source_that_they_are_traced_from(tower):
    """JAX notes the source of each operation."""
    config = dataclasses.replace(ClipConfig(), vision_layers=1, text_layers=1)
    functions = clip.build(config, dm_adapter(), "bfloat16")
    variables = clip.declare(config, dm_adapter())
    shape, dtype = ((1, *config.image_size, 3), np.uint8) if tower == "encode_image" else ((1, 77), np.int32)
    encoder = jit_encoder(functions[tower], compiler_options={})
    lowered = encoder.lower(variables, jax.ShapeDtypeStruct(shape, dtype))
    package = Path(tpr_jax.__file__).parent
    named = set(re.findall(rf'"({re.escape(str(package))}/[^"]+\.py)"', lowered.as_text(debug_info=True)))
    assert package / "models/transformer.py" in map(Path, named)
    for path in map(Path, named):
        assert any(path == source or source in path.parents for source in ENCODER_SOURCES), path


@pytest.mark.parametrize("name", BUNDLED)
def test_loads_bundled_models_by_name(name):
    model = tpr_jax.from_pretrained(name)
    assert model.source == model.backbone.name == name
    scores = model.encode_texts(["a red coat"]) @ model.encode_texts(["a red coat", "a blue car"]).T
    assert scores[0, 0] > scores[0, 1]


def test_loads_a_file_with_openai_names(model, tmp_path, expected):
    params = jax.tree.map(np.asarray, model.variables["params"])
    write_state(tmp_path / "clip.safetensors", to_openai(params, model.config))
    loaded = tpr_jax.from_pretrained(tmp_path / "clip.safetensors", act="quick_gelu", heads=(2, 1))
    images = expected["in/images_nchw"].transpose(0, 2, 3, 1)
    feats, _ = loaded.features_from_arrays(images, expected["in/input_ids"])
    assert relative(feats, expected["out/image_feats"]) < 1e-5
    with pytest.raises(UserError, match="has no tokenizer"):
        loaded.encode_texts(["a"])


def test_unknown_attributes_of_the_package():
    with pytest.raises(AttributeError, match="from_pretraned"):
        tpr_jax.from_pretraned  # noqa: B018


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_the_faster_type(tiny, monkeypatch, native, expected):
    monkeypatch.setattr("tpr_jax.perf.dtypes.has_bfloat16_products", lambda: native)
    monkeypatch.setattr("tpr_jax.perf.dtypes.has_ynnpack", lambda: True)
    assert tpr_jax.from_pretrained(tiny["clip"], dtype="auto").dtype == expected
    assert tpr_jax.from_pretrained(tiny["clip"]).dtype == "float32"


def test_models_that_differ_only_in_their_weights_share_what_is_compiled(tiny):
    """Each still computes with its own weights."""
    first = tpr_jax.from_pretrained(tiny["clip"])
    turned = {"params": {**first.variables["params"], "text": dict(first.variables["params"]["text"])}}
    turned["params"]["text"]["proj"] = -first.variables["params"]["text"]["proj"]
    other = make_model(first.config, first.method, turned, tokenizer=first.tokenizer)
    mine, others = first.encode_texts(["red above"]), other.encode_texts(["red above"])
    np.testing.assert_array_equal(mine, -others)
    assert other.encoders is first.encoders
    assert tpr_jax.from_pretrained(tiny["clip"], dtype="bfloat16").encoders is not first.encoders


def test_weights_are_cast_once_and_the_originals_kept():
    """Features are within 1 % of those in float32, for real images and captions."""
    plain, narrow = (tpr_jax.from_pretrained("clip-mini", dtype=dtype) for dtype in ("float32", "bfloat16"))
    proj = (
        narrow.inference_variables["params"]["visual"]["proj"],
        narrow.variables["params"]["visual"]["proj"],
    )
    assert [leaf.dtype.name for leaf in proj] == ["bfloat16", "float32"]
    assert narrow.inference_variables["params"]["visual"]["ln_post"]["scale"].dtype == np.float32
    assert (
        plain.inference_variables["params"]["visual"]["proj"] is plain.variables["params"]["visual"]["proj"]
    )
    records = load_records(bundled_dir(), "test")
    photos, captions = records.image_paths[:24], [texts[0] for texts in records.captions[:24]]
    assert relative(narrow.encode_images(photos), plain.encode_images(photos)) < 1e-2
    assert relative(narrow.encode_texts(captions), plain.encode_texts(captions)) < 1e-2
