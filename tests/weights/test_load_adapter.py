"""A saved model is restored to the last bit; files that do not fit are reported."""

import json
import shutil

import numpy as np
import pytest

import tpr_jax
from tests.saved_models import TALL, features, trained, write_backbone
from tests.tiny_clip import SETTINGS, quick_compilation  # noqa: F401
from tpr_jax.data.tokenizer import folder_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models import methods
from tpr_jax.models.clip import declare
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.methods import METHODS
from tpr_jax.utils.trees import flatten
from tpr_jax.weights.clip import load_clip
from tpr_jax.weights.files import read_state, write_state
from tpr_jax.weights.save_adapter import trained_leaves

PLAIN = ("zero_shot", "full_finetune", "irra")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "clip")


@pytest.fixture(scope="module")
def saved_once(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    trained(backbone, methods.linear_probe()).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(saved_once, tmp_path):
    """Returns a copy of a saved model with two tuned matrices, which a test may damage."""
    return shutil.copytree(saved_once, tmp_path / "model")


def assert_same(found, wanted):
    assert (found.method, found.config, found.backbone) == (wanted.method, wanted.config, wanted.backbone)
    assert found.num_params() == wanted.num_params()
    left, right = flatten(found.variables), flatten(wanted.variables)
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg=path)


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in PLAIN])
def test_save_and_load_every_method(backbone, tmp_path, name):
    method = METHODS[name](**SETTINGS.get(name, {}))
    model = trained(backbone, method)
    model.save_pretrained(tmp_path / "model")
    assert_same(tpr_jax.from_pretrained(tmp_path / "model"), model)
    # Only the tuned weights of CLIP are saved, and all others.
    tuned = {
        "linear_probe": lambda path: path in ("visual/proj", "text/proj"),
        "bitfit": lambda path: path.endswith("/bias"),
        "layer_norm": lambda path: path.split("/")[-2].startswith("ln_"),
        "mixture": lambda path: path == "text/proj",
    }.get(name, lambda path: False)
    flat = flatten(model.variables)
    wanted = {p for p in flat if not p.startswith("params/") or tuned(p.removeprefix("params/"))}
    assert read_state(tmp_path / "model" / "adapter.safetensors").keys() == wanted
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md",
        "adapter.safetensors",
        "config.json",
    ]


@pytest.mark.parametrize("name", PLAIN)
def test_a_clip_without_adapters_becomes_a_plain_folder(backbone, tmp_path, name):
    model = trained(backbone, METHODS[name]())
    model.save_pretrained(tmp_path / "model")
    config, params = load_clip(tmp_path / "model")
    assert config == model.config
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(leaf, flatten(model.variables["params"])[path], err_msg=path)
    assert not (tmp_path / "model" / "adapter.safetensors").exists()


def test_features_are_bit_identical_after_loading(backbone, tmp_path):
    """Also at 12 x 8 pixels, for which the 3 x 3 positions are resized to 3 x 2."""
    model = trained(backbone, methods.up_person(rank=3, prefix=2), (12, 8))
    model.save_pretrained(tmp_path / "model")
    for found, wanted in zip(
        features(tpr_jax.from_pretrained(tmp_path / "model")), features(model), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("image_size", [TALL, (12, 8)])
def test_saves_a_backbone_that_is_not_available_elsewhere(backbone, tmp_path, image_size):
    method = methods.prefix(2)
    model = trained(backbone, method, image_size, backbone=None)
    model.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["backbone"]["name"] == "./backbone"
    assert_same(tpr_jax.from_pretrained(tmp_path / "model"), model)
    # Also if the folder is moved, saved again or loaded at another size.
    moved = (tmp_path / "model").rename(tmp_path / "moved")
    again = tpr_jax.from_pretrained(moved)
    again.save_pretrained(tmp_path / "again")
    assert_same(tpr_jax.from_pretrained(tmp_path / "again"), model)
    assert tpr_jax.from_pretrained(moved, image_size=(16, 8)).config.grid == (4, 2)


def test_resizes_tuned_positions_from_the_saved_size(backbone, tmp_path):
    method = methods.mixture(tuned=("visual/(positional_embedding|proj)",))
    model = trained(backbone, method, (12, 8))
    model.save_pretrained(tmp_path / "model")
    assert_same(tpr_jax.from_pretrained(tmp_path / "model"), model)
    larger = tpr_jax.from_pretrained(tmp_path / "model", image_size=(36, 24))
    # Three times as large: each old patch is the center of nine; the class token has its own row.
    rows = np.asarray(larger.variables["params"]["visual"]["positional_embedding"])
    middles = rows[1:].reshape(9, 6, -1)[1::3, 1::3].reshape(6, -1)
    old = np.asarray(model.variables["params"]["visual"]["positional_embedding"])
    np.testing.assert_allclose(middles, old[1:], atol=1e-6)
    np.testing.assert_array_equal(rows[0], old[0])


def test_resizes_the_positions_of_the_backbone_once(backbone, tmp_path):
    trained(backbone, methods.prefix(2)).save_pretrained(tmp_path / "model")
    model = tpr_jax.from_pretrained(tmp_path / "model", image_size=(20, 8))
    _, params = load_clip(backbone, (20, 8))
    found = model.variables["params"]["visual"]["positional_embedding"]
    np.testing.assert_array_equal(found, params["visual"]["positional_embedding"])
    assert model.config.image_size == (20, 8)


def test_backbone_argument_finds_a_moved_backbone(backbone, tmp_path):
    own = shutil.copytree(backbone, tmp_path / "clip")
    model = trained(own, methods.prefix(2))
    model.save_pretrained(tmp_path / "model")
    own.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"model: its backbone {own} is not available .*backbone=FOLDER"):
        tpr_jax.from_pretrained(tmp_path / "model")
    found = tpr_jax.from_pretrained(tmp_path / "model", backbone=tmp_path / "elsewhere")
    for path, leaf in flatten(found.variables).items():
        np.testing.assert_array_equal(leaf, flatten(model.variables)[path])
    assert found.backbone.path == tmp_path / "elsewhere"
    with pytest.raises(UserError, match="its backbone nowhere is not available"):
        tpr_jax.from_pretrained(tmp_path / "model", backbone="nowhere")


def test_rejects_another_backbone(saved, tmp_path, backbone):
    other = write_backbone(tmp_path / "other", seed=5)
    pattern = (
        r"trained on the backbone .* with SHA-256 [0-9a-f]{12}\.\.\., but .*other has [0-9a-f]{12}\.\.\."
    )
    with pytest.raises(UserError, match=pattern) as error:
        tpr_jax.from_pretrained(saved, backbone=other)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is a complete CLIP: leave out backbone="):
        tpr_jax.from_pretrained(backbone, backbone=other)


def test_up_person_takes_about_30_mb():
    """At ViT-B/16 and 384 x 128: 7,419,816 float32 values and their names, no weights of CLIP."""
    method = methods.up_person()
    leaves = trained_leaves(method, declare(ClipConfig(), method))
    sizes = [int(np.prod(leaf.shape)) for leaf in leaves.values()]
    assert sum(sizes) == 7_419_816
    assert not any(path.startswith("params/") for path in leaves)
    # A leaf takes its name and about a hundred bytes in the file's header.
    assert 29.6e6 < 4 * sum(sizes) + sum(len(path) + 100 for path in leaves) < 30.4e6


def test_saves_a_tokenizer_only_if_the_backbone_has_another(tiny, tmp_path):
    plain = tpr_jax.from_pretrained(tiny["clip"])
    texts = ["A person in a red coat.", "blue below, red above"]
    model = trained(tiny["clip"], methods.prefix(2), (32, 16), tokenizer=plain.tokenizer)
    model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "tokenizer.json").exists()
    again = tpr_jax.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(again.tokenizer(texts), plain.tokenizer(texts))
    # Another tokenizer, with other capitals, is saved.
    other = json.loads(plain.tokenizer.backend.to_str())
    other["normalizer"] = {"type": "Lowercase"} if other["normalizer"] is None else None
    (tmp_path / "other.json").write_text(json.dumps(other))
    own = folder_tokenizer(tmp_path / "other.json", 9)
    trained(tiny["clip"], methods.prefix(2), (32, 16), tokenizer=own).save_pretrained(tmp_path / "own")
    again = tpr_jax.from_pretrained(tmp_path / "own")
    assert (tmp_path / "own" / "tokenizer.json").exists()
    assert again.tokenizer.context_length == 9  # captions are truncated as in training
    np.testing.assert_array_equal(again.tokenizer(texts), own(texts))
    assert (own(texts) != plain.tokenizer(texts)[:, :9]).any()


def test_only_texts_need_a_tokenizer(saved):
    model = tpr_jax.from_pretrained(saved)
    assert model.encode_images([np.zeros((8, 8, 3), np.uint8)]).shape == (1, 5)
    with pytest.raises(UserError, match=r"has no tokenizer.json"):
        model.encode_texts(["a red coat"])


# Damaged files


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("format_version", 2, r"config.json: format_version=2, but this version .* reads 1; update tpr_jax"),
        ("format_version", None, "format_version=None"),
        ("image_size", [12], r"config.json: image_size has the invalid value \[12\]"),
        ("image_size", [12, 0], "image_size has the invalid"),
        ("image_size", [13, 3], "image_size 13x3 is smaller than a patch of 4x4"),
        ("image_mean", [0, 0, "x"], "image_mean has the invalid"),
        ("image_std", [1, 1, 0], "image_std has the invalid"),
        ("backbone", "clip", "backbone.name has the invalid value None"),
        ("backbone", {"name": "clip", "sha256": "x"}, "backbone.sha256 has the invalid"),
        ("text_length", True, "text_length has the invalid"),
        ("tokenizer", 3, "tokenizer has the invalid"),
        ("method", {"name": "x"}, "config.json: method: key 'vision' is missing"),
    ],
)
def test_rejects_an_unusable_config(saved, key, value, message):
    edit(saved, **{key: value})
    with pytest.raises(UserError, match=message):
        tpr_jax.from_pretrained(saved)


def test_rejects_a_method_that_does_not_fit(saved):
    method = json.loads((saved / "config.json").read_text())["method"]
    plain = {"part": "prefix", "length": 99, "gate": None, "scaled": False, "layers": [0, None]}
    edit(saved, method=method | {"vision": [plain]})
    with pytest.raises(UserError, match=r"config.json: the method is invalid: .*length=99"):
        tpr_jax.from_pretrained(saved)
    edit(saved, method=method | {"vision": [plain | {"length": "two"}]})
    with pytest.raises(UserError, match=r"config.json: the method is invalid"):
        tpr_jax.from_pretrained(saved)
    edit(saved, method=method | {"tuned": ["("]})
    with pytest.raises(
        UserError, match=r"config\.json: the method is invalid: tuned.*not a regular expression"
    ):
        tpr_jax.from_pretrained(saved)


def test_reports_a_missing_or_damaged_file(saved):
    (saved / "adapter.safetensors").write_bytes(b"1234")
    with pytest.raises(UserError, match=r"adapter.safetensors: not a complete safetensors file"):
        tpr_jax.from_pretrained(saved)
    (saved / "adapter.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter.safetensors: no such weights file"):
        tpr_jax.from_pretrained(saved)
    (saved / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json: no such file"):
        tpr_jax.from_pretrained(saved)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("params/text/proj"), "'params/text/proj' is missing"),
        (
            lambda s: s.update({"params/text/projection": np.ones(2)}),
            "projection' is not tuned by the method",
        ),
        (
            lambda s: s.update({"params/text/token_embedding": np.ones((13, 8))}),
            "token_embedding' is not tuned by",
        ),
        (
            lambda s: s.update({"params/text/proj": np.ones((8, 4))}),
            r"proj' has shape \[8, 4\], expected \[8, 5\]",
        ),
        (lambda s: s.update({"lora/text/a": np.ones(2)}), r"'lora/text/a': expected nothing, found \[2\]"),
        (lambda s: s.update({"params/visual/positional_embedding": np.ones((2, 2))}), "positional_embedding"),
    ],
)
def test_reports_a_missing_unknown_or_misshapen_leaf(saved, change, message):
    state = dict(read_state(saved / "adapter.safetensors"))
    change(state)
    write_state(saved / "adapter.safetensors", state)
    with pytest.raises(UserError, match=message):
        tpr_jax.from_pretrained(saved)


def test_reports_a_missing_leaf_of_an_adapter(backbone, tmp_path):
    trained(backbone, methods.prefix(2)).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "adapter.safetensors"
    state = dict(read_state(file))
    del state["prefix/text/block_1/attn/prefix/gate"]
    write_state(file, state)
    with pytest.raises(UserError, match=r"'prefix/text/block_1/attn/prefix/gate': expected .*found nothing"):
        tpr_jax.from_pretrained(tmp_path / "model")


# Files of the user


def test_does_not_write_into_another_kind_of_folder(backbone, tmp_path):
    model = trained(backbone, methods.linear_probe())
    content = (backbone / "config.json").read_text()
    with pytest.raises(UserError, match="is the backbone's own folder; save the model to another one"):
        model.save_pretrained(backbone)
    other = shutil.copytree(backbone, tmp_path / "clip")
    with pytest.raises(UserError, match=r"clip/config.json: is not of a model like this one"):
        model.save_pretrained(other)
    assert (backbone / "config.json").read_text() == (other / "config.json").read_text() == content
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="is not of a model like this one"):
        model.merge().save_pretrained(tmp_path / "model")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"app/config.json: is not of a model"):
        model.save_pretrained(tmp_path / "app")
    own = shutil.copytree(backbone, tmp_path / "mine" / "backbone")
    with pytest.raises(UserError, match="mine/backbone: is not of this model"):
        trained(backbone, methods.prefix(2), backbone=None).save_pretrained(own.parent)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is not a directory"):
        model.save_pretrained(tmp_path / "file")
    assert list((tmp_path / "app").iterdir()) == [tmp_path / "app" / "config.json"]


def test_saving_again_replaces_only_the_files_of_the_model(backbone, tmp_path):
    folder = tmp_path / "model"
    trained(backbone, methods.linear_probe()).save_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    second = trained(backbone, methods.linear_probe(), seed=7)
    second.save_pretrained(folder)
    assert_same(tpr_jax.from_pretrained(folder), second)
    assert (folder / "notes.txt").read_text() == "mine"
    assert "linear_probe" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("# My own card")
    second.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "# My own card"


def test_reads_float16_files(saved):
    """A user may convert a file to half its size."""
    state = read_state(saved / "adapter.safetensors")
    write_state(saved / "adapter.safetensors", {k: v.astype(np.float16) for k, v in state.items()})
    leaf = tpr_jax.from_pretrained(saved).variables["params"]["text"]["proj"]
    assert leaf.dtype == np.float32
    np.testing.assert_array_equal(leaf, state["params/text/proj"].astype(np.float16))


@pytest.mark.parametrize("name", ["zero_shot", "full_finetune", "irra"])
@pytest.mark.parametrize("size", [(16, 8), (12, 4)])
def test_positions_of_a_known_backbone_are_kept_exactly(backbone, tmp_path, name, size):
    """Hugging Face's square would smooth those of 2:1 images."""
    model = trained(backbone, METHODS[name](), size)
    model.save_pretrained(tmp_path / "saved")
    again = tpr_jax.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(
        *(one.variables["params"]["visual"]["positional_embedding"] for one in (again, model))
    )
    for found, expected in zip(features(again), features(model), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
