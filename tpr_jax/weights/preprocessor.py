"""Reads and writes the image settings of a folder in Hugging Face's format."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD, ClipConfig
from tpr_jax.weights.json_files import read_json

FILES = ("preprocessor_config.json", "processor_config.json")  # the first that exists is read
PROCESSORS = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}  # by family
BILINEAR = 2  # PIL.Image.Resampling.BILINEAR
BILINEAR_NAMES = (None, BILINEAR, "bilinear")
SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad")


class ImageSettings(NamedTuple):
    """The image preprocessing of a model.

    Attributes:
      image_size: (height, width) in pixels of the model's input, after the crop if there is one.
      mean: the mean of the red, green and blue channels, for pixels in [0, 1].
      std: their standard deviation.
      ignored: a sentence that names the settings that are not followed, or "".
    """

    image_size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = IMAGE_MEAN
    std: tuple[float, float, float] = IMAGE_STD
    ignored: str = ""


CLIP_SETTINGS = ImageSettings()


def read_image_settings(folder: str | os.PathLike, default: ImageSettings = CLIP_SETTINGS) -> ImageSettings:
    """Reads a folder's image settings; `default` has the mean and std that it leaves out, by default CLIP's.

    A `rescale_factor` other than 1/255, `do_rescale: false` and `do_normalize: false` are folded into `mean`
    and `std`.

    Raises:
      UserError: the file cannot be read, or a value is invalid.
    """
    for name in FILES:
        path = Path(folder) / name
        if path.is_file():
            settings = read_json(path)
            nested = settings.get("image_processor", settings)
            return _read(nested if isinstance(nested, Mapping) else {}, default, str(path))
    return default


def preprocessor_config(config: ClipConfig) -> dict:
    """Returns the contents of preprocessor_config.json for the image size, mean and std of a config."""
    height, width = config.image_size
    return {
        "image_processor_type": PROCESSORS[config.family],
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": BILINEAR,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
        "do_convert_rgb": True,
    }


def _read(settings: Mapping, default: ImageSettings, where: str) -> ImageSettings:
    for key in SWITCHES:
        if not isinstance(settings.get(key), bool | None):
            raise UserError(f"{where}: {key} is {settings[key]!r}, expected true or false; fix the file")
    crops = settings.get("do_center_crop") is not False
    crop = _sides(settings, "crop_size", where) if crops else None
    size = _sides(settings, "size", where) if settings.get("do_resize") is not False else None
    mean, std = default.mean, default.std
    if settings.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        mean = channels(settings, "image_mean", where) or mean
        std = channels(settings, "image_std", where, positive=True) or std
    # For x in 0..255 and k = 255 factor: (x factor - mean) / std = (x / 255 - mean / k) / (std / k).
    k = 255 * _factor(settings, where)
    if k != 1:
        mean = mean[0] / k, mean[1] / k, mean[2] / k
        std = std[0] / k, std[1] / k, std[2] / k
    ignored = _ignored(settings, crop or size, where)
    return ImageSettings(crop or size, mean, std, ignored)


def _ignored(settings: Mapping, size: tuple[int, int] | None, where: str) -> str:
    """Names the settings that request anything other than a bilinear resize of the whole image."""
    ignored = [key for key in ("do_center_crop", "do_pad") if settings.get(key)]
    ignored += [f"{key}=false" for key in ("do_resize", "do_convert_rgb") if settings.get(key) is False]
    resample = settings.get("resample")
    if resample not in BILINEAR_NAMES and settings.get("do_resize") is not False:
        ignored.append(f"resample={resample}")
    requested = settings.get("size")
    if isinstance(requested, Mapping) and not {"height", "width"} <= set(requested):
        keys = ("shortest_edge", "longest_edge", "max_height", "max_width")
        ignored += [key for key in keys if key in requested]
    return unfollowed(ignored, size, where)


def unfollowed(ignored: list[str], size: tuple[int, int] | None, where: str) -> str:
    """Returns the sentence that names the settings that are not followed, "" for none."""
    if not ignored:
        return ""
    target = f" to {size[0]} x {size[1]}" if size else ""
    return (
        f"{where}: {', '.join(ignored)}: not followed; whole photos are resized{target}, bilinear, in RGB, "
        "as person retrieval does"
    )


def _factor(settings: Mapping, where: str) -> float:
    if settings.get("do_rescale") is False:
        return 1.0
    factor = settings.get("rescale_factor")
    if factor is None:
        return 1 / 255
    if not _is_number(factor) or factor <= 0:
        raise UserError(f"{where}: rescale_factor is {factor!r}, expected a number above 0; fix the file")
    return float(factor)


def channels(
    settings: Mapping, key: str, where: str, positive: bool = False
) -> tuple[float, float, float] | None:
    """Returns a value for each of red, green and blue, or None if the key is missing.

    Raises:
      UserError: it is not three numbers (above 0 if `positive`) or one number for all.
    """
    value = settings.get(key)
    if value is None:
        return None
    values = [value] * 3 if _is_number(value) else value
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
        raise UserError(f"{where}: {key} is {value!r}, expected three numbers; fix the file")
    if positive and min(values) <= 0:
        raise UserError(f"{where}: {key} is {values}, expected numbers above 0; fix the file")
    red, green, blue = map(float, values)
    return red, green, blue


def _sides(settings: Mapping, key: str, where: str) -> tuple[int, int] | None:
    """Returns (height, width) of a size in any of its formats; None if it depends on the image."""
    size = settings.get(key)
    if isinstance(size, Mapping):
        if not {"height", "width"} <= set(size):
            return None
        sides = [size["height"], size["width"]]
    elif size is None:
        return None
    else:
        sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UserError(f"{where}: {key} is {size!r}, expected a size in whole pixels; fix the file")
    height, width = sides
    return height, width


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
