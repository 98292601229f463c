"""Converts OpenCLIP's weights, which have OpenAI's names, as open_clip_config.json describes them.

LAION's, DataComp's, DFN's and MetaCLIP's vision transformers are published in this form.
"""

from collections.abc import Mapping

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.weights.name_maps import Params
from tpr_jax.weights.open_clip_config import read_config
from tpr_jax.weights.openai import from_sized_openai

# The files that may lie beside open_clip_config.json, in order of preference.
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
UNREAD = frozenset({"logit_bias", "attn_mask"})  # weights that the features do not depend on


def from_open_clip(
    state: Mapping[str, np.ndarray],
    content: Mapping,
    image_size: tuple[int, int] | None = None,
    *,
    where: str = "weights",
) -> tuple[ClipConfig, Params]:
    """Converts OpenCLIP's state dict and its config to sizes and a tree of weights.

    The scales of a model with layer scale are folded into the products before them.

    Args:
      state: name -> array.
      content: the contents of open_clip_config.json.
      image_size: (height, width) in pixels, to which the position embedding is resized; by default its own.
      where: the folder, for error messages.

    Raises:
      UserError: as `read_config`; or a weight is missing, unknown or misshapen.
    """
    config = read_config(content, where)
    state = fold_layer_scale(without_text_prefix(state, where), where)
    return from_sized_openai(state, config, image_size, ignore=UNREAD, where=where)


def without_text_prefix(state: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Removes the prefix `text.`, with which OpenCLIP's CustomTextCLIP names the text tower.

    Raises:
      UserError: two weights get the same name.
    """
    renamed = {}
    for name, array in state.items():
        short = name.removeprefix("text.")
        if short in renamed:
            raise UserError(f"{where}: weight {short!r} is there twice, with and without 'text.'; keep one")
        renamed[short] = array
    return renamed


def fold_layer_scale(state: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Multiplies the output of attention and perceptron by `ls_1.gamma` and `ls_2.gamma`.

    These per-channel factors follow a linear layer, so multiplying its weight's rows and its bias has the
    same effect.

    Raises:
      UserError: a factor has no layer, or another length.
    """
    folded = dict(state)
    for name in state:
        block, found, _ = name.rpartition(".ls_")
        if not found or not name.endswith(".gamma"):
            continue
        layer = "attn.out_proj" if name.endswith(".ls_1.gamma") else "mlp.c_proj"
        gamma = np.asarray(folded.pop(name), np.float32)
        for leaf in ("weight", "bias"):
            target = f"{block}.{layer}.{leaf}"
            array = np.asarray(folded.get(target, ()), np.float32)
            if array.shape[:1] != gamma.shape:
                raise UserError(
                    f"{where}: weight {name!r} of shape {list(gamma.shape)} does not fit {target!r} of shape "
                    f"{list(array.shape)}; use undamaged weights"
                )
            folded[target] = array * gamma.reshape(-1, *[1] * (array.ndim - 1))
    return folded
