"""Loads a file of CLIP's weights under OpenAI's names, without a config."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.utils.notices import print_once
from tpr_jax.weights.files import is_torchscript, read_state
from tpr_jax.weights.name_maps import Params
from tpr_jax.weights.openai import ARCHIVE_SCALARS, from_openai
from tpr_jax.weights.state_dict import unwrap_names

HEAD_WIDTH = 64  # width of an attention head in each of OpenAI's vision transformers
HUGGING_FACE = ("vision_model.", "text_model.")  # prefixes of the weights of both towers
WIDEST = 1024  # width of OpenAI's largest vision transformer, ViT-L


def load_bare_file(
    path: str | os.PathLike,
    image_size: tuple[int, int] | None = None,
    act: str | None = None,
    heads: tuple[int, int] | None = None,
) -> tuple[ClipConfig, Params]:
    """Loads sizes and float32 weights of a file under OpenAI's names.

    OpenAI's own release has quick GELU and heads of width 64. It is recognized by its TorchScript archive or
    by the entries beside its weights, and a notice says so. Other files carry the same names but may differ:
    LAION's and DataComp's models use exact GELU, and ViT-H has vision heads of width 80.

    Args:
      path: a `.pt`, `.pth`, `.bin` or `.safetensors` file.
      image_size: (height, width) in pixels; by default that of the weights.
      act: "quick_gelu" or "gelu".
      heads: numbers of heads of the vision and text towers.

    Raises:
      UserError: the file is of a Hugging Face folder; it is not OpenAI's and `act` or `heads` is not given;
        it cannot be read; or a weight is missing, unknown or misshapen.
    """
    where = str(path)
    state = unwrap_names(read_state(path), where)
    _check_names(state, path)
    is_release = is_torchscript(path) or set(ARCHIVE_SCALARS) <= set(state)
    assumed = check_recognized(state, is_release, act, heads, where)
    config, params = from_openai(state, image_size, heads=heads, act=act or "quick_gelu", where=where)
    used = f"{config.act}, heads=({config.vision_heads}, {config.text_heads})"
    if assumed:
        print_once(
            f"{where}: recognized as OpenAI's own release: {used}; pass act and heads if it is another CLIP"
        )
    else:
        print_once(f"{where}: does not record its activation and heads; read with {used} as requested")
    return config, params


def _check_names(state: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Rejects weights under Hugging Face's names, whose sizes only the config.json beside them records."""
    for name in state:
        if name.startswith(HUGGING_FACE):
            raise UserError(
                f"{path}: has Hugging Face's names of weights ({name!r}), which need the config.json of "
                f"their folder: give the folder {Path(path).parent} in place of the file"
            )


def check_recognized(
    state: Mapping[str, np.ndarray],
    is_release: bool,
    act: str | None,
    heads: tuple[int, int] | None,
    where: str,
) -> bool:
    """Returns whether the activation or the heads of a file are assumed to be those of OpenAI's release.

    Args:
      state: weights under OpenAI's names.
      is_release: whether something beside the widths says that the weights come from that release.
      act: the activation, if it is known.
      heads: the heads of both towers, if they are known.
      where: the file, for error messages.

    Raises:
      UserError: one of them is not known, and the widths or `is_release` say that it is another model.
    """
    widths = _widths(state)
    if not widths or (act is not None and heads is not None):
        return False
    if not is_release or not all(map(_is_openai_width, widths)):
        raise UserError(_unrecognized_message(where, act, heads))
    return True


def _widths(state: Mapping[str, np.ndarray]) -> tuple[int, int] | None:
    """Returns the widths of both towers, or None if the names are not OpenAI's (`from_openai` reports it)."""
    shapes = [np.shape(state.get(name, ())) for name in ("visual.proj", "text_projection")]
    return (shapes[0][0], shapes[1][0]) if all(len(shape) == 2 for shape in shapes) else None


def _is_openai_width(width: int) -> bool:
    return width <= WIDEST and (width % HEAD_WIDTH == 0 or width < HEAD_WIDTH)


def _unrecognized_message(where: str, act: str | None, heads: tuple[int, int] | None) -> str:
    unknown = [name for name, value in (("its activation", act), ("its heads", heads)) if value is None]
    return (
        f"{where}: is not recognized as OpenAI's own release, and does not record {' and '.join(unknown)}: "
        "pass act='gelu' (LAION, DataComp) or 'quick_gelu' and heads=(VISION, TEXT) to from_pretrained "
        "(--act and --heads of a command), or set config.backbone_act and config.backbone_heads; "
        "save_pretrained then writes a folder that records both"
    )
