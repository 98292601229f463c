"""Errors in the arguments of the Python API are one line that names the argument."""

import numpy as np
import pytest
from PIL import Image

import tpr_jax
from tests.clip_folder import FOLDER
from tests.saved_models import trained, write_backbone
from tests.tiny_clip import quick_compilation  # noqa: F401
from tpr_jax import losses
from tpr_jax.errors import ArgumentError, UserError
from tpr_jax.metrics.retrieval import rank_metrics, retrieval_metrics, top_k
from tpr_jax.model import make_model
from tpr_jax.models import methods
from tpr_jax.weights import arguments as api_arguments
from tpr_jax.weights import reference
from tpr_jax.weights.merge import merge

PICTURE = np.zeros((8, 4, 3), np.uint8)


def one_line(call, *arguments, match: str, **settings):
    with pytest.raises(UserError, match=match) as error:
        call(*arguments, **settings)
    assert "\n" not in str(error.value) and str(error.value)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "clip")


@pytest.fixture(scope="module")
def model():
    return tpr_jax.from_pretrained("clip-mini")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        *(
            ({"dtype": dtype}, r"dtype=.*: choose from: float32, bfloat16")
            for dtype in ("int8", "foo", "float16")
        ),
        *(({"dtype": dtype}, "dtype=") for dtype in (None, 3, np.int32, "", ["float32"])),
        *(
            ({"image_size": size}, r"image_size=.* must be \(height, width\) in pixels")
            for size in (
                np.ones((9, 9)),
                192,
                "192",
                (192,),
                (192, 64, 3),
                (192.0, 64),
                (True, True),
                (0, 8),
                (-8, 8),
                {8: 8},
            )
        ),
        ({"image_size": (33, 7)}, "image_size 33x7 is smaller than a patch of 8x8 pixels"),
        *(({"act": act}, "act=.*choose from: quick_gelu, gelu") for act in ("relu", 3, "")),
        *(({"heads": heads}, "heads=.*such as") for heads in (2, (2,), (2, 1.0), (0, 1), "21", (True, 1))),
        *(
            ({name: values}, f"{name}=.* must be three numbers")
            for name in ("image_mean", "image_std")
            for values in (
                0.5,
                (0.5,),
                ("a", 0.5, 0.5),
                (0.5, 0.5, float("nan")),
                (True, 0.5, 0.5),
                {0.5},
                (1, 1, 1e39),
            )
        ),
        *(({"image_std": (0.5, 0.5, value)}, "image_std=.*above 0") for value in (0, -1, 1e-60)),
        *(({"backbone": path}, "backbone") for path in (3, "", b"x")),
        ({"backbone": "clip-mini"}, "is a complete CLIP: leave out backbone='clip-mini'"),
    ],
)
def test_from_pretrained(settings, match):
    one_line(tpr_jax.from_pretrained, FOLDER, match=match, **settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        *(({"dtype": dtype}, "dtype=.*: choose from: float32, bf") for dtype in ("int8", "foo", None, 3)),
        *(
            ({name: values}, f"{name}=.* must be three numbers")
            for name in ("mean", "std")
            for values in (0.5, (0.5,), "abc", (0.5, 0.5, float("nan")), (1, 1, 1e39), (1, 10**400, 1))
        ),
        *(({"std": values}, "std=.*above 0") for values in ((0, 1, 1), (1, -1, 1), (1, 1, 1e-60))),
        ({"config": {}}, "config must be a ClipConfig of models.config, not dict"),
        ({"method": "zero_shot"}, "method must be a Method of models.methods, not str"),
        ({"variables": None}, "variables must be a dict of collections, not NoneType"),
    ],
)
def test_make_model(model, settings, match):
    given = {"config": model.config, "method": model.method, "variables": model.variables}
    one_line(lambda settings: make_model(**(given | settings)), settings, match=match)


def test_make_model_accepts_every_kind_of_channels_and_types(model):
    channels = {"mean": np.array([0, 0, 0]), "std": [1, np.float32(0.5), 1]}
    made = make_model(model.config, model.method, model.variables, dtype=np.float32, **channels)
    assert (made.mean, made.std, made.dtype) == ((0, 0, 0), (1, 0.5, 1), "float32")


@pytest.mark.parametrize("name", [None, 3, "", " ", b"clip-mini", ["clip-mini"]])
def test_rejects_unusable_names(name):
    one_line(tpr_jax.from_pretrained, name, match="path_or_hub_id")


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32"), "bfloat16"])
def test_accepts_every_kind_of_dtype(dtype):
    import jax.numpy as jnp

    assert api_arguments.check_dtype(dtype) in ("float32", "bfloat16")
    assert api_arguments.check_dtype(jnp.bfloat16) == "bfloat16"
    assert api_arguments.check_image_size([np.int64(8), 4]) == (8, 4)
    assert (
        api_arguments.check_image_size(np.array([8, 4])) == (8, 4)
        and api_arguments.check_image_size(None) is None
    )


@pytest.mark.parametrize(
    ("images", "match"),
    [
        ("a.jpg", "images is one str: give a list"),
        (Image.fromarray(PICTURE), "images is one Image: give a list"),
        (FOLDER, "images is one PosixPath"),
        (PICTURE, r"images is one array of shape \[8, 4, 3\]: give a list"),
        (PICTURE[..., 0], r"images is one array of shape \[8, 4\]"),
        (np.array(3), "images must be a list, not ndarray"),
        (None, "images must be a list, not NoneType"),
        (3, "images must be a list, not int"),
        ({"a": PICTURE}, "images must be a list, not dict"),
        ({"a.jpg"}, "images must be a list, not set"),
        ((x for x in [PICTURE]), "images must be a list, not generator"),
        ([PICTURE, PICTURE / 255], r"images\[1\]: .*must be uint8 .*, not float64"),
        ([np.full((8, 4, 3), np.nan)], r"images\[0\]: .*not float64"),
        ([np.zeros((8, 4, 2), np.uint8)], r"images\[0\]: .*\[8, 4, 2\]"),
        ([np.zeros((0, 4, 3), np.uint8)], r"images\[0\]: .*\[0, 4, 3\]"),
        ([None], r"images\[0\]: an image must be"),
        ([PICTURE, 7], r"images\[1\]: an image must be"),
        (["nowhere.png"], "nowhere.png: no such image"),
        (np.zeros((2, 8, 4, 3), np.float32), r"images\[0\]: .*not float32"),
    ],
)
def test_images(model, images, match):
    one_line(model.encode_images, images, match=match)


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ("a red coat", "texts is one str: give a list"),
        (b"a red coat", "texts is one bytes"),
        (None, "texts must be a list"),
        ({"a": 1}, "texts must be a list, not dict"),
        ({"a"}, "texts must be a list, not set"),
        (["a", 3], r"texts\[1\]=3 must be a text \(str\), not int"),
        ([None], r"texts\[0\]=None must be"),
        ([["a"]], r"texts\[0\]=\['a'\] must be"),
        ([b"a"], r"texts\[0\]=b'a' must be"),
    ],
)
def test_texts(model, texts, match):
    one_line(model.encode_texts, texts, match=match)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "8", float("nan")])
def test_batch_sizes(model, size):
    one_line(model.encode_images, [PICTURE], batch_size=size, match="batch_size=.*whole number of at least 1")
    one_line(model.encode_texts, ["a"], batch_size=size, match="batch_size=.*whole number of at least 1")


def test_accepts_every_kind_of_list(model):
    for images in ((PICTURE,), np.stack([PICTURE]), [Image.fromarray(PICTURE)]):
        assert model.encode_images(images, batch_size=np.int64(2)).shape == (1, 128)
    for texts in (("a",), np.array(["a"]), [np.str_("a")]):
        assert model.encode_texts(texts).shape == (1, 128)
    assert model.encode_images([]).shape == model.encode_texts(()).shape == (0, 128)


ARRAYS = np.zeros((2, 192, 64, 3), np.float32), np.ones((2, 5), np.int32)


@pytest.mark.parametrize(
    ("images", "ids", "match"),
    [
        (ARRAYS[0][0], ARRAYS[1], r"images of shape \(192, 64, 3\), expected \[n, 192, 64, 3\]"),
        (ARRAYS[0].swapaxes(1, 2), ARRAYS[1], "images of shape"),
        (ARRAYS[0].astype(np.uint8), ARRAYS[1], "images are uint8, expected normalized floats"),
        (ARRAYS[0] * np.nan, ARRAYS[1], "images hold NaN or infinity"),
        (ARRAYS[0] + np.inf, ARRAYS[1], "images hold NaN or infinity"),
        ("x", ARRAYS[1], "images: not an array of numbers"),
        (None, ARRAYS[1], "images: not an array of numbers"),
        ([[1], [1, 2]], ARRAYS[1], "images: not an array of numbers"),
        (ARRAYS[0], ARRAYS[1][0], r"ids of shape \(5,\), expected \[m, l\]"),
        (ARRAYS[0], np.ones((2, 65), int), "ids of shape .*l of 1 to 64"),
        (ARRAYS[0], np.ones((2, 0), int), "ids of shape"),
        (ARRAYS[0], np.ones((2, 5)), "ids are float64, expected whole numbers"),
        (ARRAYS[0], np.ones((2, 5), bool), "ids are bool"),
        (ARRAYS[0], np.full((2, 5), 2515), r"ids lie in 2515..2515, expected 0..2514"),
        (ARRAYS[0], -ARRAYS[1], "ids lie in -1..-1"),
        (ARRAYS[0], ["a", "b"], "ids: not an array of numbers"),
    ],
)
def test_features_from_arrays(model, images, ids, match):
    one_line(model.features_from_arrays, images, ids, match=match)
    with pytest.raises(ValueError):  # callers may catch either
        model.features_from_arrays(images, ids)


SCORES = {way: dict.fromkeys(("R1", "R5", "R10", "mAP", "mINP"), 1.0) for way in ("t2i", "i2t")}
RESULTS = {
    "dataset": "cuhk_pedes",
    "trainable_params": 1,
    "total_params": 2,
    "zero_shot": {"test": SCORES},
    "final": {"test": SCORES},
}


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"results": "results.json"}, r"results must hold a run's results.json \(a dict\), not str"),
        ({"results": {}}, "results has no 'dataset'"),
        ({"results": {**RESULTS, "final": {}}}, "results has no 'final.test'"),
        (
            {"results": {**RESULTS, "final": {"test": {"t2i": {}}}}},
            "results has no number at 'final.test.t2i.R1'",
        ),
        ({"results": {**RESULTS, "best_on_val": {"epoch": 1}}}, "results has no number at 'best_on_val.test"),
        ({"results": [1]}, "results must hold"),
        ({"training": 3}, r"training must hold a run's config.json \(a dict\), not int"),
        ({"training": {}}, "training has no 'dataset'"),
    ],
)
def test_save_pretrained(clip, tmp_path, settings, match):
    model = trained(clip, methods.prefix(2))
    one_line(model.save_pretrained, tmp_path / "m", match=match, **settings)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("folder", [None, 3, "", b"m"])
def test_rejects_unusable_folders(clip, folder):
    one_line(trained(clip, methods.prefix(2)).save_pretrained, folder, match="folder")


def test_accepts_the_files_of_a_run(clip, tmp_path):
    trained(clip, methods.prefix(2)).save_pretrained(tmp_path / "m", results=RESULTS)
    assert "CUHK-PEDES" in (tmp_path / "m" / "README.md").read_text()


def test_merge(clip):
    model = trained(clip, methods.lora(rank=3))
    one_line(merge, "lora", model.variables, match="method must be a Method .*, not str")
    one_line(merge, model.method, [1], match="variables must be a dict of collections, not list")
    one_line(merge, model.method, {}, match="variables have no collection 'params'")
    without = {name: tree for name, tree in model.variables.items() if name != "lora"}
    one_line(
        merge, model.method, without, match="variables have no collection 'lora', which method 'lora' needs"
    )


STATE = {"visual.proj": np.zeros((4, 4))}


@pytest.mark.parametrize(
    ("state", "settings", "match"),
    [
        (None, {"method": "cskt"}, "state must be a dict.*not NoneType"),
        ("w.pth", {"method": "cskt"}, "state must be a dict.*not str"),
        ({}, {"method": "cskt"}, "state must be a dict.*an empty one"),
        (STATE, {"method": None}, "method None has no reference checkpoints here: choose from: dm_adapter"),
        (STATE, {"method": ["cskt"]}, "has no reference checkpoints"),
        (STATE, {"method": "irra", "image_size": 192}, "image_size=192 must be"),
        (STATE, {"method": "irra", "dtype": "int8"}, "dtype='int8': choose from"),
        ({"visual.proj": "x"}, {"method": "irra"}, "weight 'visual.proj' is not an array of numbers"),
        ({"visual.proj": [[1], [1, 2]]}, {"method": "irra"}, "weight 'visual.proj' is not an array"),
        ({"visual.proj": object()}, {"method": "irra"}, "weight 'visual.proj' is not an array"),
        (STATE, {"method": "dm_adapter", "top_k": "two"}, "top_k='two' must be a whole number"),
        (STATE, {"method": "dm_adapter", "num_experts": 2.5}, "num_experts=2.5 must be a whole number"),
        (STATE, {"method": "dm_adapter", "scales": 1}, "scales=1 must be two numbers"),
        (STATE, {"method": "up_person", "depth_lora": "x"}, "depth_lora='x' must be a number of blocks"),
        (STATE, {"method": "up_person", "use": 3}, "use=3 must be a list of names"),
        (STATE, {"method": "cskt", "reduction": 0}, "reduction=0 must be a whole number"),
    ],
)
def test_reference_load(state, settings, match):
    one_line(reference.load, state, match=match, **settings)


FEATS, PIDS = np.eye(3, dtype=np.float32), np.arange(3)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((FEATS[0], FEATS, PIDS, PIDS), r"query features have shape \(3,\)"),
        ((FEATS, FEATS[None], PIDS, PIDS), "gallery features have shape"),
        ((FEATS, FEATS[:, :2], PIDS, PIDS), "query features are 3 wide and gallery features 2"),
        ((FEATS[:0], FEATS, PIDS[:0], PIDS), "there are no query features"),
        ((FEATS * np.nan, FEATS, PIDS, PIDS), "query features are not finite"),
        ((FEATS, FEATS + np.inf, PIDS, PIDS), "gallery features are not finite"),
        (("features", FEATS, PIDS, PIDS), "query features are <U8: expected numbers"),
        ((FEATS.astype(object), FEATS, PIDS, PIDS), "query features are object: expected numbers"),
        ((FEATS.astype(complex), FEATS, PIDS, PIDS), "query features are complex128"),
        (([[1.0], [1.0, 2.0]], FEATS, PIDS, PIDS), "query features are not an array"),
        ((None, FEATS, PIDS, PIDS), "query features are object"),
        ((FEATS, FEATS, PIDS[:2], PIDS), "3 query features but 2 query pids"),
        ((FEATS, FEATS, PIDS, PIDS[:, None]), "gallery pids"),
        ((FEATS, FEATS, PIDS.astype(float), PIDS), "query pids are float64"),
        ((FEATS, FEATS, PIDS.astype(str), PIDS), "query pids are <U"),
        ((FEATS, FEATS, PIDS > 0, PIDS), "query pids are bool"),
        ((FEATS, FEATS, PIDS, [[1], [1, 2], [3]]), "gallery pids are not an array"),
        ((FEATS, FEATS, PIDS, None), "gallery"),
        ((FEATS, FEATS, PIDS, PIDS + 9), "no query's pid occurs in the gallery"),
    ],
)
def test_metrics(arguments, match):
    for call in (retrieval_metrics, rank_metrics):
        one_line(call, *arguments, match=match)


def test_other_arguments_of_metrics():
    one_line(retrieval_metrics, FEATS, FEATS, PIDS, PIDS, pair_ranks="device", match="pair_ranks is str")
    for k in (0, -1, 1.5, True, "2", None):
        one_line(top_k, FEATS, FEATS, k, match="top_k=")


@pytest.mark.parametrize("name", losses.BY_NAME)
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"image_feats": np.zeros(4, np.float32)}, r"image_feats of shape \(4,\), expected \[b, e\]"),
        ({"text_feats": np.zeros((4, 3, 1), np.float32)}, "text_feats of shape"),
        (
            {"text_feats": np.zeros((3, 5), np.float32)},
            r"image_feats of shape \(4, 5\) and text_feats of shape \(3, 5\)",
        ),
        ({"image_feats": np.zeros((4, 5), np.int32)}, "image_feats are int32, expected floats"),
        ({"pids": np.zeros(3, np.int32)}, r"pids of shape \(3,\), expected \[4\]"),
        ({"pids": np.zeros(4, np.float32)}, "pids are float32, expected whole numbers"),
        ({"text_feats": None}, "text_feats"),
    ],
)
def test_losses(name, changes, match):
    given = {"image_feats": np.ones((4, 5), np.float32), "text_feats": np.ones((4, 5), np.float32)}
    given |= {"pids": np.arange(4, dtype=np.int32), **changes}
    one_line(losses.BY_NAME[name], *given.values(), match=match)


def test_argument_error_is_a_user_error_and_a_value_error():
    assert issubclass(ArgumentError, UserError) and issubclass(ArgumentError, ValueError)
