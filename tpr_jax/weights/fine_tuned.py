"""Converts CLIPs that other programs fine-tuned, such as RDE's and TBPS-CLIP's released checkpoints.

They keep CLIP's names behind a prefix and add modules of their own, such as classifiers and heads that are
only used in training. CLIP's weights are kept; all other arrays are skipped and reported.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.weights.bare_file import check_recognized
from tpr_jax.weights.name_maps import Params
from tpr_jax.weights.open_clip import without_text_prefix
from tpr_jax.weights.openai import ARCHIVE_SCALARS, from_openai
from tpr_jax.weights.reference import METHOD_NAMES, infer_grid
from tpr_jax.weights.text_positions import OPENAI_TABLES

# How programs name OpenAI's CLIP inside their model: `base_model.` (IRRA, RDE and what is built on them),
# `encode_text.` (the text tower of TBPS-CLIP).
PREFIXES = ("base_model.", "encode_text.")
TEXT = (
    "positional_embedding",
    "token_embedding.weight",
    "ln_final.weight",
    "ln_final.bias",
    "text_projection",
)
CLIP = {*TEXT, *OPENAI_TABLES, "logit_scale", *ARCHIVE_SCALARS}


class FineTuned(NamedTuple):
    """A CLIP in a larger model.

    Attributes:
      config: the sizes.
      params: the weights.
      left_out: top-level module -> number of its arrays.
      assumed: whether the activation or the heads are assumed to be those of OpenAI's release.
    """

    config: ClipConfig
    params: Params
    left_out: dict[str, int]
    assumed: bool


def split_clip(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Splits a state dict into CLIP's weights under OpenAI's names, and the number of arrays of each module.

    Raises:
      UserError: two weights get the same name.
    """
    taken, left_out = {}, Counter()
    for name, array in state.items():
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
        short = name.removeprefix(prefix)
        if short not in CLIP and not short.startswith(("visual.", "transformer.")):
            left_out[prefix + short.split(".")[0]] += 1
        elif short in taken:
            raise UserError(f"weight {short!r} is there twice, also as {name!r}; keep one")
        else:
            taken[short] = array
    return taken, dict(left_out)


def read_fine_tuned(
    state: Mapping[str, np.ndarray],
    *,
    image_size: tuple[int, int] | None = None,
    act: str | None = None,
    heads: tuple[int, int] | None = None,
    where: str = "the checkpoint",
) -> FineTuned:
    """Converts the CLIP in a state dict.

    A model that names CLIP as the programs built on OpenAI's release do is taken to have its activation,
    quick GELU, and its heads of width 64, unless `act` and `heads` say otherwise.

    Args:
      state: name -> array.
      image_size: (height, width) in pixels, to which the position embedding is resized.
      act: "quick_gelu" or "gelu".
      heads: numbers of heads of the vision and text towers.
      where: the file, for error messages.

    Raises:
      UserError: a weight is missing, unknown or misshapen, or the activation and heads are unknown.
    """
    state = without_text_prefix(state, where)
    check_method(state, "clip", where)
    taken, left_out = split_clip(state)
    is_release = any(name.startswith(PREFIXES) for name in state) or set(ARCHIVE_SCALARS) <= set(state)
    assumed = check_recognized(taken, is_release, act, heads, where)
    config, params = from_openai(
        {name: np.asarray(array, np.float32) for name, array in taken.items()},
        image_size,
        grid=infer_grid(taken, image_size),
        heads=heads,
        act=act or "quick_gelu",
        where=where,
    )
    return FineTuned(config, params, left_out, assumed)


def check_method(names: Iterable[str], method: str, where: str) -> None:
    """Rejects a checkpoint of any parameter-efficient method other than `method`.

    Methods share some names; the one with the most is the file's. IRRA, which trains all of CLIP, adds
    modules that other programs have too, and is not told apart.

    Args:
      names: the names of the weights.
      method: whose weights they are meant to be; "clip" for none.
      where: the file, for error messages.

    Raises:
      UserError: the message names the method of the file.
    """
    short = [name.removeprefix("base_model.") for name in names]
    found = {
        other: [name for name in short if any(re.fullmatch(pattern, n) for n in (name, f"base_model.{name}"))]
        for other, pattern in METHOD_NAMES.items()
        if other != "irra"
    }
    own = max(found, key=lambda other: len(found[other]))
    if found[own] and own != method:
        foreign = next((name for name in found[own] if name not in found.get(method, ())), found[own][0])
        raise UserError(f"{where}: weight {foreign!r} belongs to {own}: use --method {own}")
