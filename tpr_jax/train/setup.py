"""What training and evaluation share: mesh, data, model, weights, optimizer."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tpr_jax import optim
from tpr_jax.config import defaults as config_lib
from tpr_jax.data import datasets, leaks, protocols
from tpr_jax.distributed import sharding
from tpr_jax.errors import UserError
from tpr_jax.models import clip, methods
from tpr_jax.models.heads import Heads
from tpr_jax.train import agreement, step
from tpr_jax.weights import backbone


def check_rows(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Raises a UserError where the rows of a training batch cannot be split over the mesh.

    Those of an evaluation's batches can, of however many devices: see `sharding.padded_size`.
    """
    data, parts = mesh.shape["data"], config.accumulate
    if config.batch_size % (data * parts):
        times = f" times the {parts} parts of config.accumulate" if parts > 1 else ""
        raise UserError(
            f"config.batch_size={config.batch_size} must be a multiple of the {data} devices of the data "
            f"axis{times}"
        )


def make_heads(config: ConfigDict, identities: int) -> Heads:
    """The heads that the config's losses ask for, for so many identities to train on."""
    return Heads(
        num_classes=identities if config.losses.id else 0,
        mlm_depth=config.mlm_depth if config.losses.mlm else 0,
    )


def prepare(config: ConfigDict, to_train: bool = True) -> dict:
    """Returns everything that training and evaluation share: mesh, data, model, weights, encoders.

    Raises:
      UserError: something does not fit; with `to_train`, the batch of training neither.
    """
    mesh = sharding.make_mesh(**config.mesh)
    if to_train:
        check_rows(config, mesh)
    # What cannot be built is found before the data are looked through, which may take minutes.
    method = config_lib.make_method(config)
    base = backbone.find(config.backbone)
    clip_config, params, tokenizer = backbone.load(
        base,
        tuple(config.image_size),
        text_length=config.text_length,
        with_weights=not config.from_scratch,
        act=config.backbone_act or None,
        heads=tuple(config.backbone_heads) or None,
    )
    methods.check(method, clip_config)
    skip = config.on_bad_image == "skip"
    splits = datasets.load_splits(config.dataset, config.data_dir, missing_ok=skip, source=config.source)
    described = datasets.describe(config.dataset, splits)
    for line in described["subset"] or ():
        print(f"a subset of {config.dataset}: {line}")
    shared = leaks.of_splits(splits)
    splits["train"], reduced = protocols.reduce(splits["train"], config)
    described |= reduced
    splits = datasets.with_mixed(splits, config.mix, missing_ok=skip)
    shared = leaks.with_mixed(shared, splits) if config.mix else shared
    name = config.data_dir or f"data set '{config.dataset}'"
    described |= leaks.refuse(shared, name, config.on_leak, official=described["subset"] == [])
    if jax.process_count() > 1:
        agreement.check_same("data set", agreement.of_data(splits), "give all the same config.data_dir")
    people = len(set(splits["train"].pids.tolist())) if "train" in splits else 0
    heads = make_heads(config, people)
    model = clip.build(clip_config, method, config.dtype, heads, config.remat, config.scan_layers)

    def init(key):
        drawn = model["init"](key)
        # Weights that were read need not be drawn, which would be most of what there is to compile.
        return drawn if params is None else {name: t for name, t in drawn.items() if name != "params"}

    variables = jax.jit(init)(jax.random.key(config.seed))
    if params is not None:
        variables["params"] = jax.tree.map(jnp.asarray, params)
    if jax.process_count() > 1:
        found = agreement.of_weights(variables)
        agreement.check_same("backbone", found, "give all the same config.backbone")
    trainable, frozen = optim.split_model(variables, method)
    if "params" in frozen:
        frozen["params"] = clip.cast_frozen(frozen["params"], config.dtype)
    return {
        "mesh": mesh,
        "splits": splits,
        "data": described,
        "skipped": {} if skip else None,  # pictures that cannot be read: why
        "tokenizer": tokenizer,
        "backbone": base,
        "clip_config": clip_config,
        "method": method,
        "heads": heads,
        "model": model,
        "trainable": sharding.shard_params(mesh, trainable),
        "frozen": sharding.shard_params(mesh, frozen),
        "encoders": step.jit_encoders(model, mesh),
    }


def count(tree) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def make_optimizer(config: ConfigDict, trainable: dict, per_epoch: int) -> tuple:
    """(step -> learning rate, the optimizer of the trainable collections)."""
    settings = config.optimizer
    rate = optim.schedule(
        settings.lr,
        kind=settings.schedule,
        warmup_epochs=settings.warmup_epochs,
        num_epochs=config.num_epochs,
        steps_per_epoch=per_epoch,
        per_step=settings.per_step,
        warmup_factor=settings.warmup_factor,
        milestones=tuple(settings.milestones),
        gamma=settings.gamma,
        power=settings.power,
    )
    groups = optim.parameter_groups(settings.weight_decay, settings.bias_lr_factor, settings.head_lr_factor)
    moments = {"b1": settings.b1, "b2": settings.b2, "eps": settings.eps}
    return rate, optim.adam(rate, trainable, groups, clip_norm=settings.clip_norm, **moments)
