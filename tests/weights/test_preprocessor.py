"""The image settings of a folder: accepted formats, ignored settings and errors."""

import json

import numpy as np
import pytest

import tpr_jax
from tests.clip_folder import copy_golden
from tpr_jax.errors import UserError
from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD, ClipConfig
from tpr_jax.utils import notices
from tpr_jax.weights.clip import load_clip
from tpr_jax.weights.preprocessor import preprocessor_config, read_image_settings


@pytest.fixture
def folder(tmp_path):
    return copy_golden(tmp_path)


def settings(folder, name="preprocessor_config.json", **content):
    (folder / name).write_text(json.dumps(content))
    return read_image_settings(folder)


def test_defaults_are_those_of_clip(folder):
    found = read_image_settings(folder)
    assert found == (None, IMAGE_MEAN, IMAGE_STD, "")


@pytest.mark.parametrize(
    ("content", "size"),
    [
        ({"size": 40}, (40, 40)),
        ({"size": {"height": 24, "width": 8}}, (24, 8)),
        ({"size": [24, 8]}, (24, 8)),
        ({"size": {"shortest_edge": 40}}, None),
        ({"size": {"longest_edge": 40}}, None),
        ({"size": {"max_height": 40, "max_width": 20}}, None),
        ({"size": {"shortest_edge": 48}, "crop_size": 40}, (40, 40)),
        ({"size": 48, "crop_size": {"height": 40, "width": 32}}, (40, 32)),
        ({"size": 48, "crop_size": 40, "do_center_crop": False}, (48, 48)),
        ({"size": 48, "do_resize": False}, None),
        ({"size": None, "crop_size": None}, None),
    ],
)
def test_sizes(folder, content, size):
    assert settings(folder, **content).image_size == size


@pytest.mark.parametrize(
    "content",
    [
        {"image_mean": [0.5, 0.25, 0.75], "image_std": [0.5, 1, 2]},
        {"image_mean": 0.5, "image_std": 0.25},
        {"do_normalize": False, "image_mean": [0.5] * 3},
        {"do_rescale": False, "image_mean": [128, 127, 126], "image_std": [60, 50, 40]},
        {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
        {"do_rescale": False, "do_normalize": False},
        {"do_rescale": True, "rescale_factor": None, "do_normalize": None},
    ],
)
def test_normalization_follows_the_folder(folder, content):
    """By definition: x times the factor, if any, minus the mean, divided by the std."""
    found = settings(folder, **content)
    x = np.random.default_rng(0).integers(256, size=(5, 3))
    factor = content.get("rescale_factor") or 1 / 255
    wanted = x * (1 if content.get("do_rescale") is False else factor)
    if content.get("do_normalize") is not False:
        wanted = (wanted - content.get("image_mean", IMAGE_MEAN)) / content.get("image_std", IMAGE_STD)
    np.testing.assert_allclose((x / 255 - found.mean) / found.std, wanted, rtol=1e-9, atol=1e-9)


def test_reads_processor_config(folder):
    found = settings(folder, "processor_config.json", image_processor={"image_mean": [0, 0.5, 1]})
    assert found.mean == (0, 0.5, 1)
    assert settings(folder, image_mean=[1, 1, 1]).mean == (
        1,
        1,
        1,
    )  # preprocessor_config.json takes precedence


def test_write_and_read(folder):
    config = ClipConfig(image_size=(48, 16), image_mean=(0.1, 0.2, 0.3), image_std=(1.0, 2.0, 3.0))
    found = settings(folder, **preprocessor_config(config))
    assert found == ((48, 16), (0.1, 0.2, 0.3), (1, 2, 3), "")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"resample": 3}, "resample=3"),
        ({"resample": 2}, ""),
        ({"do_center_crop": True, "crop_size": 40, "resample": 3}, "do_center_crop, resample=3"),
        ({"do_resize": False}, "do_resize=false"),
        ({"do_convert_rgb": False}, "do_convert_rgb=false"),
        ({"do_pad": True}, "do_pad"),
        ({"size": {"shortest_edge": 40}}, "shortest_edge"),
    ],
)
def test_names_ignored_settings_in_one_line(folder, content, told, capsys):
    found = settings(folder, **content).ignored
    assert told in found and bool(told) == bool(found) and "\n" not in found
    notices.print_once.cache_clear()
    for _ in range(2):
        load_clip(folder)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(told)
    assert not told or (str(folder / "preprocessor_config.json") in lines[0] and "not followed" in lines[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("image_mean", value) for value in ("x", [0.5, 0.5], [0.5, None, 0.5], [True] * 3)),
        *(("image_std", value) for value in ([0, 1, 1], [-1, 1, 1], 0, "1")),
        *(("size", value) for value in ("40", [40], [40, 0], {"height": "40", "width": 40}, 40.5, True)),
        ("crop_size", {"height": 40, "width": None}),
        *(("rescale_factor", value) for value in (0, -1, "1/255")),
        *(("do_normalize", value) for value in ("false", 0, [])),
        ("do_rescale", "no"),
    ],
)
def test_reports_an_unusable_value(folder, key, value):
    with pytest.raises(UserError, match=rf"preprocessor_config.json: {key} is .*fix the file") as error:
        settings(folder, **{key: value})
    assert "\n" not in str(error.value)


def test_features_follow_the_definition(folder):
    """Covers do_normalize: false through the whole model."""
    settings(folder, do_normalize=False)
    model = tpr_jax.from_pretrained(folder)
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    by_hand, _ = model.features_from_arrays((pixels / 255.0)[None], np.zeros((1, 4), np.int32))
    np.testing.assert_allclose(
        model.encode_images([pixels])[0], by_hand[0] / np.linalg.norm(by_hand), atol=1e-5
    )
