"""Converts CLIP from and to a state dict under OpenAI's names."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.utils.notices import print_once
from tpr_jax.weights.name_maps import Params, from_names, openai_weights, to_names
from tpr_jax.weights.resize import resize_patches, resize_positions
from tpr_jax.weights.state_dict import scalar
from tpr_jax.weights.text_positions import join_long_positions

ARCHIVE_SCALARS = ("input_resolution", "context_length", "vocab_size")  # scalars in OpenAI's archives


def from_openai(
    state: Mapping[str, np.ndarray],
    image_size: tuple[int, int] | None = None,
    *,
    grid: tuple[int, int] | None = None,
    heads: tuple[int, int] | None = None,
    act: str = "quick_gelu",
    where: str = "weights",
) -> tuple[ClipConfig, Params]:
    """Converts a vision-transformer CLIP's state dict under OpenAI's names to sizes and a tree of weights.

    All sizes come from the shapes; the defaults of `heads` and `act` are those of OpenAI's release. The text
    feature is taken at the highest id. The scalars beside the weights in OpenAI's archives are ignored.

    Args:
      state: name -> array.
      image_size: (height, width) in pixels, to which the position embedding is resized; by default its own.
      grid: rows and columns of the position embedding; by default square, or those of `image_size` if only
        these have its length.
      heads: numbers of heads of the vision and text towers; by default one per 64 channels.
      act: "quick_gelu" or "gelu".
      where: the file, for error messages.

    Raises:
      UserError: a weight is missing, unknown or misshapen, or `image_size` is smaller than a patch.
    """
    state = join_long_positions(state, where)
    for name in ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "text_projection"):
        if name not in state:
            raise UserError(f"{where}: weight {name!r} is missing; this is not a vision-transformer CLIP")
    for name in ("token_embedding.weight", "positional_embedding"):
        if name not in state:
            raise UserError(f"{where}: weight {name!r} is missing; this is not a CLIP under OpenAI's names")
    vision_width, _, patch, _ = _shape(state, "visual.conv1.weight", 4, where)
    positions, _ = _shape(state, "visual.positional_embedding", 2, where)
    text_width, embed = _shape(state, "text_projection", 2, where)
    grid = grid or _infer_grid(positions - 1, image_size, patch, where)
    config = ClipConfig(
        image_size=image_size or (grid[0] * patch, grid[1] * patch),
        patch_size=patch,
        vision_width=vision_width,
        vision_layers=_count_blocks(state, "visual.transformer.resblocks."),
        vision_heads=heads[0] if heads else max(1, vision_width // 64),
        vision_mlp=_rows(state, "visual.transformer.resblocks.0.mlp.c_fc.bias"),
        text_width=text_width,
        text_layers=_count_blocks(state, "transformer.resblocks."),
        text_heads=heads[1] if heads else max(1, text_width // 64),
        text_mlp=_rows(state, "transformer.resblocks.0.mlp.c_fc.bias"),
        context_length=_shape(state, "positional_embedding", 2, where)[0],
        vocab_size=_shape(state, "token_embedding.weight", 2, where)[0],
        embed_dim=embed,
        act=act,
        eot_id=None,
        logit_scale=scalar(state, "logit_scale", ClipConfig.logit_scale, where),
    )
    check_heads(config, where)
    ignore = frozenset({"logit_scale", *ARCHIVE_SCALARS})
    params = from_names(state, openai_weights(config, grid), ignore=ignore, where=where)
    return config, with_grid(params, config, grid)


def from_sized_openai(
    state: Mapping[str, np.ndarray],
    config: ClipConfig,
    image_size: tuple[int, int] | None = None,
    *,
    ignore: frozenset[str] = frozenset(),
    where: str = "weights",
) -> tuple[ClipConfig, Params]:
    """Converts a state dict under OpenAI's names whose sizes are known.

    Args:
      state: name -> array.
      config: the sizes, at the image size of the position embedding.
      image_size: (height, width) in pixels, to which the position embedding is resized; by default its own.
      ignore: names in `state` that are skipped.
      where: the file, for error messages.

    Raises:
      UserError: a weight is missing, unknown or misshapen, or `image_size` is smaller than a patch.
    """
    ignore = frozenset({"logit_scale", *ignore})
    params = from_names(state, openai_weights(config, config.grid), ignore=ignore, where=where)
    resized = dataclasses.replace(
        config,
        image_size=tuple(image_size or config.image_size),
        logit_scale=scalar(state, "logit_scale", config.logit_scale, where),
    )
    return resized, with_grid(params, resized, config.grid)


def to_openai(params: Params, config: ClipConfig) -> dict[str, np.ndarray]:
    """Returns the state dict under OpenAI's names, with the position embedding at the config's grid."""
    state = to_names(params, openai_weights(config, config.grid))
    return state | {"logit_scale": np.asarray(config.logit_scale, np.float32)}


def with_grid(params: Params, config: ClipConfig, grid_from: tuple[int, int]) -> Params:
    """Resizes the vision position embedding from `grid_from` to the grid of `config.image_size`.

    Raises:
      UserError: the image size is smaller than a patch.
    """
    check_image_size(config)
    return resize_grid(params, config, grid_from)


def resize_grid(params: Params, config: ClipConfig, grid_from: tuple[int, int]) -> Params:
    """Resizes the vision position embedding from `grid_from` to the config's grid, as its family does."""
    resize = resize_positions if config.has_class_token else resize_patches
    positions = resize(np.asarray(params["visual"]["positional_embedding"]), grid_from, config.grid)
    return params | {"visual": params["visual"] | {"positional_embedding": positions}}


def check_image_size(config: ClipConfig) -> None:
    """Rejects an image size smaller than a patch, and notes which pixels no patch covers.

    Like a convolution with a stride of the patch size, the vision tower leaves out rows at the bottom and
    columns at the right that do not fill a patch: 384 x 128 are 27 x 9 patches of 14, which cover 378 x 126.

    Raises:
      UserError: a side is shorter than a patch.
    """
    (height, width), patch = config.image_size, config.patch_size
    if min(height, width) < patch:
        raise UserError(
            f"image_size {height}x{width} is smaller than a patch of {patch}x{patch} pixels; use for example "
            f"{max(height, patch)}x{max(width, patch)}"
        )
    rows, columns = config.grid
    if height % patch or width % patch:
        print_once(
            f"image_size {height}x{width} is {rows} x {columns} patches of {patch} pixels, which cover "
            f"{rows * patch}x{columns * patch}; the remaining {height % patch} at the bottom and "
            f"{width % patch} at the right are ignored, as in a strided convolution"
        )


def check_heads(config: ClipConfig, where: str = "weights") -> None:
    """Rejects numbers of heads that do not divide the width of their tower.

    Raises:
      UserError: a tower has no heads, or its width is not a multiple of their number.
    """
    towers = (
        ("vision", config.vision_width, config.vision_heads),
        ("text", config.text_width, config.text_heads),
    )
    for tower, width, count in towers:
        if count < 1 or width % count:
            raise UserError(f"{where}: heads={count} do not divide the {tower} tower's width of {width}")


def _infer_grid(patches: int, image_size: tuple[int, int] | None, patch: int, where: str) -> tuple[int, int]:
    side = round(patches**0.5)
    if side * side == patches:
        return side, side
    if image_size and (image_size[0] // patch) * (image_size[1] // patch) == patches:
        return image_size[0] // patch, image_size[1] // patch
    raise UserError(
        f"{where}: 'visual.positional_embedding' has {patches} patches, which is not a square number; "
        "give the image_size it was trained at"
    )


def _shape(state: Mapping[str, np.ndarray], name: str, rank: int, where: str) -> tuple[int, ...]:
    shape = np.shape(state[name])
    if len(shape) != rank:
        raise UserError(f"{where}: weight {name!r} has shape {list(shape)}, expected {rank} axes")
    return shape


def _count_blocks(state: Mapping[str, np.ndarray], prefix: str) -> int:
    numbers = {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
    return len(numbers)


def _rows(state: Mapping[str, np.ndarray], name: str) -> int:
    return len(state[name]) if name in state and np.ndim(state[name]) else 0
