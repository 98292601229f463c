"""Keeps some blocks of both towers: the start of a student that learns from the whole model."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.model import Model, make_model


def keep_blocks(model: Model, vision_blocks: int, text_blocks: int) -> Model:
    """Returns a plain CLIP or SigLIP with evenly spaced blocks of a model, the first and the last among them.

    Its width, embeddings and projections are those of the model, after LoRA and the like are merged.

    Args:
      model: the model.
      vision_blocks: the number of blocks to keep of the vision tower.
      text_blocks: the number of blocks to keep of the text tower.

    Raises:
      UserError: a number does not lie between 1 and the tower's blocks, or the model has parts that cannot be
        merged into its weights.
    """
    merged = model.merge()
    if merged.method.name != "zero_shot":
        raise UserError(
            f"{model.source}: has {', '.join(merged.method.trainable)} that cannot be merged into CLIP's "
            "weights: take a model with LoRA, with tuned weights, or without parts"
        )
    config, params = merged.config, dict(merged.variables["params"])
    for tower, name, count in (("visual", "vision", vision_blocks), ("text", "text", text_blocks)):
        layers = getattr(config, f"{name}_layers")
        if not 1 <= count <= layers:
            raise UserError(
                f"--{name}_blocks {count}: must lie between 1 and the {layers} blocks of {model.source}"
            )
        params[tower] = _keep(params[tower], layers, count)
        config = dataclasses.replace(config, **{f"{name}_layers": count})
    return make_model(
        config,
        merged.method,
        {"params": params},
        tokenizer=model.tokenizer,
        source=f"{model.source}, {vision_blocks} and {text_blocks} blocks",
        dtype=model.dtype,
    )


def _keep(tower: Mapping, layers: int, count: int) -> dict:
    """Returns the weights of a tower with `count` of its blocks, numbered anew."""
    kept = spaced(layers, count)
    others = {name: leaf for name, leaf in tower.items() if not name.startswith("block_")}
    return others | {f"block_{i}": tower[f"block_{block}"] for i, block in enumerate(kept)}


def spaced(layers: int, count: int) -> list[int]:
    """Returns `count` of the blocks 0 to `layers` - 1, evenly spaced; a single one is the last."""
    if count == 1:
        return [layers - 1]
    return np.rint(np.linspace(0, layers - 1, count)).astype(int).tolist()
