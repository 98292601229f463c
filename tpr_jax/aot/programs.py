"""Lowers a config's train step and encoders from shapes alone, without weights, data or devices."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpr_jax import optim
from tpr_jax.config import defaults as config_lib
from tpr_jax.data.datasets import DATASETS
from tpr_jax.distributed import sharding
from tpr_jax.errors import UserError
from tpr_jax.models import casting, clip, methods
from tpr_jax.models.config import BUNDLED, NAMED, ClipConfig, Heads
from tpr_jax.perf import flops
from tpr_jax.train import step
from tpr_jax.train.setup import check_rows, make_heads, make_logits, make_optimizer
from tpr_jax.train.state import TrainState
from tpr_jax.utils.trees import merge
from tpr_jax.weights import backbone
from tpr_jax.weights.clip import read_sizes
from tpr_jax.weights.openai import check_heads, check_image_size

MINI_PEDES_IDENTITIES = 500


class Program(NamedTuple):
    """A function to compile.

    Attributes:
      lower: lowers the function.
      minimum: the operations of its analytic minimum, see `flops.total`.
      all_experts: the same if mixtures compute all experts.
      argument_bytes: the bytes of each kind of argument on one device.
    """

    lower: Callable
    minimum: dict[str, float]
    all_experts: dict[str, float]
    argument_bytes: dict[str, int]


def programs(config: ConfigDict, mesh: Mesh, identities: int | None = None) -> dict[str, Program]:
    """Returns the programs `train_step` (unless nothing is trained), `encode_image` and `encode_text`.

    Args:
      config: the config.
      mesh: the mesh to compile for.
      identities: the number of training identities, which only the loss "id" needs.

    Raises:
      UserError: batch size, method or backbone do not fit, or the sizes of the backbone are unknown.
    """
    sizes, method = sizes_of(config), config_lib.make_method(config)
    if method.trainable:
        check_rows(config, mesh)
    methods.check(method, sizes)
    heads = _heads(config, identities)
    model = clip.build(sizes, method, config.dtype, heads, config.remat, config.scan_layers)
    length = backbone.row_length(config.text_length, sizes, str(config.backbone))

    trainable, frozen = optim.split_model(clip.declare(sizes, method, heads), method)
    if "params" in frozen:
        cast = functools.partial(casting.cast_frozen, dtype=config.dtype)
        frozen["params"] = jax.eval_shape(cast, frozen["params"])
    captions, ids = config.captions_per_image, ((length,), jnp.int32)
    rows = {
        "image": ((*sizes.image_size, 3), jnp.uint8),
        "ids": ids if captions == 1 else ((captions, length), jnp.int32),
        "pid": ((), jnp.int32),
    }
    kept = sizes.kept_patches(config.patch_dropout)
    if kept < sizes.num_patches:
        rows["patches"] = ((kept,), jnp.int32)
    if config.losses.mlm:
        rows |= {"mlm_ids": rows["ids"], "mlm_labels": rows["ids"]}
    sharded = functools.partial(_sharded, mesh)
    by_name = {}
    if trainable:
        weights = config_lib.loss_weights(config)
        optimizer = make_optimizer(config, sizes, trainable, per_epoch=1)[1]
        logits = make_logits(config, sizes)
        update = step.jit_train_step(
            model, optimizer, weights, logits, mesh, config.accumulate, dtype=config.dtype
        )
        state = sharded(jax.eval_shape(functools.partial(TrainState.create, optimizer), trainable))
        batch = {key: _rows(mesh, config.batch_size, *row) for key, row in rows.items()}
        frozen_shapes = sharded(frozen)
        argument_bytes = {
            "trainable": bytes_per_device(state.trainable),
            "optimizer": bytes_per_device(state.opt_state),
            "frozen": bytes_per_device(frozen_shapes),
            "batch": bytes_per_device(batch),
        }
        counted = functools.partial(
            flops.train_step,
            *(sizes, method, config.batch_size, tuple(weights), heads, length),
            captions_per_image=captions,
            kept_patches=kept,
        )
        lower = functools.partial(update.lower, state, frozen_shapes, batch)
        by_name["train_step"] = Program(lower, *_counts(counted), argument_bytes)
    variables = sharded(merge(frozen, trainable))
    for name, row, tower in (("encode_image", rows["image"], "vision"), ("encode_text", ids, "text")):
        count = sharding.padded_size(mesh, config.eval_batch_size)
        inputs = _rows(mesh, count, *row)
        counted = functools.partial(flops.encode, sizes, method, tower, count, length)
        argument_bytes = {"weights": bytes_per_device(variables), "batch": bytes_per_device(inputs)}
        encoder = step.jit_encoder(model[name], mesh, dtype=config.dtype)
        lower = functools.partial(encoder.lower, variables, inputs)
        by_name[name] = Program(lower, *_counts(counted), argument_bytes)
    return by_name


def sizes_of(config: ConfigDict) -> ClipConfig:
    """Returns the sizes of the config's backbone at its image size, without reading weights.

    Raises:
      UserError: it is neither a folder nor a name with known sizes, or patches do not tile the image.
    """
    name = str(config.backbone)
    if name in NAMED:
        known = NAMED[name]
    else:
        if name not in BUNDLED and not Path(name).is_dir():
            near = config_lib.nearest(name, [*BUNDLED, *NAMED])
            raise UserError(
                f"config.backbone={name!r} is neither a folder nor a name with known sizes: {near}"
            )
        known = read_sizes(backbone.find(name).path)
    sizes = replace(known, image_size=tuple(config.image_size), act=config.backbone_act or known.act)
    if config.backbone_heads:
        sizes = replace(sizes, vision_heads=config.backbone_heads[0], text_heads=config.backbone_heads[1])
        check_heads(sizes, f"config.backbone={name!r}")
    check_image_size(sizes)
    if config.stretch_text:
        sizes = replace(sizes, context_length=max(config.text_length, sizes.context_length))
    return sizes


def _heads(config: ConfigDict, identities: int | None) -> Heads:
    official = (DATASETS[config.dataset].counts or {}).get("train")
    if identities is None and config.dataset == "mini_pedes":
        identities = MINI_PEDES_IDENTITIES
    identities = identities or (official.identities if official else 0)
    if config.losses.id and not identities:
        raise UserError(
            f"the number of identities of {config.dataset} is unknown: the loss 'id' needs --identities N"
        )
    return make_heads(config, identities)


def _counts(counted: Callable) -> tuple[dict, dict]:
    return flops.total(counted()), flops.total(counted(all_experts=True))


def _sharded(mesh: Mesh, tree):
    """Returns the shapes of weights or a state with the shardings of `sharding.shard_params`."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        tree,
        sharding.leaf_shardings(mesh, tree),
    )


def _rows(mesh: Mesh, count: int, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=sharding.row_sharding(mesh, count))


def bytes_per_device(tree) -> int:
    """Returns the bytes that one device holds of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
