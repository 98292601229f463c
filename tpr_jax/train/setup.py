"""Builds the components of a run: mesh, data, model, weights, optimizer, train step and input."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpr_jax import optim
from tpr_jax.config import defaults as config_lib
from tpr_jax.data import datasets, leaks, protocols
from tpr_jax.data import splits as splits_lib
from tpr_jax.data.records import Records
from tpr_jax.data.tokenizer import Tokenizer
from tpr_jax.distributed import sharding
from tpr_jax.errors import UserError
from tpr_jax.models import casting, clip, methods
from tpr_jax.models.config import ClipConfig, Heads
from tpr_jax.train import agreement, objective, step
from tpr_jax.utils.notices import print_once
from tpr_jax.utils.trees import merge
from tpr_jax.weights import backbone


@dataclasses.dataclass(frozen=True)
class Run:
    """The components that training and evaluation share.

    Attributes:
      config: the run's config.
      mesh: the mesh of devices.
      splits: the records of `train`, `test` and, if there is one, `val`.
      data: a summary of the splits, for results.json.
      skipped: the images that cannot be read, each with the reason; filled during the run. None if such
        an image is an error.
      tokenizer: `(list of captions) -> int32 [n, l]`.
      backbone: the CLIP that is adapted.
      clip_config: the sizes of its towers.
      method: the settings of the method.
      heads: the heads that the losses need.
      model: the pure functions of `models.clip.build`.
      trainable: the initial values of the trainable collections, on the mesh.
      frozen: the frozen collections, on the mesh.
      encoders: `(variables, images or ids) -> features float32 [b, e]` of both towers.
    """

    config: ConfigDict
    mesh: Mesh
    splits: dict[str, Records]
    data: dict
    skipped: dict[str, str] | None
    tokenizer: Tokenizer
    backbone: backbone.Backbone
    clip_config: ClipConfig
    method: methods.Method
    heads: Heads
    model: dict
    trainable: dict
    frozen: dict
    encoders: tuple[Callable, Callable]

    def variables(self, trainable: dict) -> dict:
        """Returns all collections of the model, with these trainable ones."""
        return merge(self.frozen, trainable)

    def num_params(self) -> dict[str, int]:
        """Returns `trainable_params` and `total_params`."""
        trainable = count(self.trainable)
        return {"trainable_params": trainable, "total_params": trainable + count(self.frozen)}


@dataclasses.dataclass(frozen=True)
class Training:
    """The components that only training needs.

    Attributes:
      schedule: `step -> learning rate`.
      optimizer: the optimizer of the trainable collections.
      update: the jitted train step, `(state, frozen, batch) -> (state, metrics)`.
      batches: `(epoch, skip=0) -> batches of NumPy arrays`, see `data.pipeline.train_input`.
      steps_per_epoch: the number of steps of an epoch.
      last_step: the step at which the run ends.
      annotate: adds what only losses need to a batch on the mesh, see `teacher.make_annotate`.
    """

    schedule: optim.Schedule
    optimizer: optax.GradientTransformation
    update: jax.stages.Wrapped
    batches: Callable[..., Iterator[dict]]
    steps_per_epoch: int
    last_step: int
    annotate: Callable[[dict], dict] = lambda batch: batch


def prepare(config: ConfigDict, to_train: bool = True) -> Run:
    """Builds the components that training and evaluation share.

    The config and the data set are checked before the backbone is located, which may download it.

    Args:
      config: the run's config.
      to_train: whether the batches of training have to fit the mesh.

    Raises:
      UserError: a setting does not fit, or a file cannot be read.
    """
    mesh = sharding.make_mesh(**config.mesh)
    if to_train:
        check_rows(config, mesh)
    method = config_lib.make_method(config)
    on_disk, splits, described = _load_splits(config)
    base = backbone.find(config.backbone)
    clip_config, params, tokenizer = backbone.load(
        base,
        tuple(config.image_size),
        text_length=config.text_length,
        stretch_text=config.stretch_text,
        with_weights=not config.from_scratch,
        act=config.backbone_act or None,
        heads=tuple(config.backbone_heads) or None,
        image_mean=tuple(config.backbone_mean) or None,
        image_std=tuple(config.backbone_std) or None,
    )
    # Reported before the images of the splits are compared, which may take minutes.
    methods.check(method, clip_config)
    check_mask(config, tokenizer, base.name)
    make_logits(config, clip_config)  # reports an error
    described |= _check_leaks(config, on_disk, splits, described)
    if jax.process_count() > 1:
        agreement.check_same("data set", agreement.of_data(splits), "give all the same config.data_dir")
    heads = make_heads(config, len(set(splits["train"].pids.tolist())) if "train" in splits else 0)
    model = clip.build(clip_config, method, config.dtype, heads, config.remat, config.scan_layers)
    variables = _init_variables(model, config.seed, params)
    if jax.process_count() > 1:
        weights = agreement.of_weights(variables)
        agreement.check_same("backbone", weights, "give all the same config.backbone")
    trainable, frozen = optim.split_model(variables, method)
    if "params" in frozen:
        frozen["params"] = casting.cast_frozen(frozen["params"], config.dtype)
    return Run(
        config=config,
        mesh=mesh,
        splits=splits,
        data=described,
        skipped={} if config.on_bad_image == "skip" else None,
        tokenizer=tokenizer,
        backbone=base,
        clip_config=clip_config,
        method=method,
        heads=heads,
        model=model,
        trainable=sharding.shard_params(mesh, trainable),
        frozen=sharding.shard_params(mesh, frozen),
        encoders=step.jit_encoders(model, mesh, dtype=config.dtype),
    )


def prepare_training(run: Run) -> Training:
    """Builds the optimizer, the train step and the input of a run."""
    from tpr_jax.data import pipeline  # imports TensorFlow, which nothing else here needs
    from tpr_jax.data.augment import erase_color

    config, clip_config = run.config, run.clip_config
    instances = config_lib.instances(config)
    steps_per_epoch = pipeline.steps_per_epoch(run.splits["train"], config.batch_size, instances)
    last_step = steps_per_epoch * config.num_epochs
    schedule, optimizer = make_optimizer(config, run.clip_config, run.trainable, steps_per_epoch)
    update = step.jit_train_step(
        run.model,
        optimizer,
        config_lib.loss_weights(config),
        make_logits(config, run.clip_config),
        run.mesh,
        config.accumulate,
        dtype=config.dtype,
    )
    process_index, process_count = sharding.process_shard(run.mesh, config.batch_size)
    batches = pipeline.train_input(
        run.splits["train"],
        run.tokenizer,
        image_size=tuple(config.image_size),
        batch_size=config.batch_size,
        seed=config.seed,
        instances=instances,
        captions_per_image=config.captions_per_image,
        patches=(clip_config.num_patches, clip_config.kept_patches(config.patch_dropout)),
        augment=config.augment,
        mask_text=config.mask_text and run.tokenizer.mask_id is not None,
        mask_probability=config.mask_probability,
        mlm=bool(config.losses.mlm),
        pad=config.pad,
        color=erase_color(run.clip_config.image_mean, run.clip_config.image_std),
        skipped=run.skipped,
        process_index=process_index,
        process_count=process_count,
    )
    return Training(
        schedule=schedule,
        optimizer=optimizer,
        update=update,
        batches=batches,
        steps_per_epoch=steps_per_epoch,
        last_step=min(last_step, config.total_steps) if config.total_steps else last_step,
    )


def check_rows(config: ConfigDict, mesh: Mesh) -> None:
    """Checks that the rows of a training batch can be split over the mesh.

    Evaluation batches always can, on any number of devices: see `sharding.padded_size`.

    Raises:
      UserError: the rows cannot be split.
    """
    devices, microbatches = mesh.shape["data"], config.accumulate
    if config.batch_size % (devices * microbatches):
        times = f" times the {microbatches} microbatches of config.accumulate" if microbatches > 1 else ""
        raise UserError(
            f"config.batch_size={config.batch_size} must be a multiple of the {devices} devices of the data "
            f"axis{times}"
        )


def check_mask(config: ConfigDict, tokenizer: Tokenizer, backbone: str) -> None:
    """Checks that words can be masked where a loss needs it; says so if `mask_text` has no effect.

    Raises:
      UserError: the loss 'mlm' is in use, and the tokenizer has no mask token.
    """
    if tokenizer.mask_id is not None:
        return
    if config.losses.mlm:
        raise UserError(
            f"config.losses.mlm={config.losses.mlm} needs a mask token, which the tokenizer of {backbone} "
            "lacks: set config.losses.mlm=0"
        )
    if config.mask_text:
        print_once(f"config.mask_text=True has no effect: the tokenizer of {backbone} has no mask token")


def make_logits(config: ConfigDict, clip_config: ClipConfig) -> objective.Logits:
    """Returns how the losses turn cosine similarities into logits.

    Raises:
      UserError: `sigmoid_from` asks for the backbone's own values, and it has none; or a size of `matryoshka`
        is not below that of the features.
    """
    scale, sizes = 1 / config.temperature, tuple(config.matryoshka)
    if sizes and max(sizes) >= clip_config.embed_dim:
        raise UserError(
            f"config.matryoshka={sizes}: {max(sizes)} is not below the {clip_config.embed_dim} numbers of "
            "the backbone's features: give smaller sizes"
        )
    if config.sigmoid_from == "paper":
        return objective.Logits(scale, sizes=sizes)
    if clip_config.logit_bias is None:
        raise UserError(
            "config.sigmoid_from='backbone' needs a backbone with a learned bias, which SigLIP has and CLIP "
            "lacks: set config.sigmoid_from='paper'"
        )
    return objective.Logits(scale, math.exp(clip_config.logit_scale), clip_config.logit_bias, sizes)


def make_heads(config: ConfigDict, num_identities: int) -> Heads:
    """Returns the heads that the config's losses need, for this many training identities."""
    return Heads(
        num_classes=num_identities if config.losses.id else 0,
        mlm_depth=config.mlm_depth if config.losses.mlm else 0,
        temperature=config.temperature if config.learn_temperature else 0.0,
    )


def make_optimizer(
    config: ConfigDict, clip_config: ClipConfig, trainable: dict, per_epoch: int
) -> tuple[optim.Schedule, optax.GradientTransformation]:
    """Returns (`step -> learning rate`, the optimizer of the trainable collections).

    Args:
      config: the run's config.
      clip_config: the sizes of the towers.
      trainable: the trainable collections.
      per_epoch: the number of steps of an epoch.
    """
    settings = config.optimizer
    schedule = optim.schedule(
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
    groups = optim.parameter_groups(
        settings.weight_decay,
        settings.bias_lr_factor,
        settings.head_lr_factor,
        block_lr_decay=settings.block_lr_decay,
        layers={"visual": clip_config.vision_layers, "text": clip_config.text_layers},
    )
    keys = ("b1", "b2", "eps", "clip_norm", "ema_decay")
    return schedule, optim.adam(schedule, trainable, groups, **{key: settings[key] for key in keys})


def count(tree) -> int:
    """Returns the number of elements of all arrays of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _load_splits(config: ConfigDict) -> tuple[dict[str, Records], dict[str, Records], dict]:
    """Returns (the splits on disk, the splits to use, a summary of them)."""
    missing_ok = config.on_bad_image == "skip"
    on_disk = splits_lib.load_splits(
        config.dataset, config.data_dir, missing_ok=missing_ok, source=config.source
    )
    described = splits_lib.describe(config.dataset, on_disk, config.mix)
    for line in described["subset"] or ():
        print(f"a subset of {config.dataset}: {line}")
    train, reduced = protocols.reduce(on_disk["train"], config)
    splits = splits_lib.with_mixed({**on_disk, "train": train}, config.mix, missing_ok=missing_ok)
    digests = {name: splits_lib.annotation_digest(records) for name, records in splits.items()}
    # Sets that the renderer wrote share a name with the bundled one.
    if config.dataset == "mini_pedes" and config.data_dir:
        described["folder"] = config.data_dir
    return on_disk, splits, described | reduced | {"annotations": digests}


def _check_leaks(
    config: ConfigDict, on_disk: dict[str, Records], splits: dict[str, Records], described: dict
) -> dict:
    """Rejects or reports people and photos in two splits; returns the numbers, for results.json."""
    shared = leaks.find_in_splits(on_disk)
    if config.mix:
        shared = leaks.add_mixed(shared, splits)
    name = config.data_dir or f"data set '{config.dataset}'"
    official = described["subset"] == [] and datasets.DATASETS[config.dataset].has_split_sizes
    return leaks.raise_or_warn(shared, name, config.on_leak, official)


def _init_variables(model: dict, seed: int, params: dict | None) -> dict:
    """Returns all collections of a model: `params` as loaded, and the others initialized."""

    def init(key):
        variables = model["init"](key)
        # Leaving out the weights that were read saves compiling most of the initializers.
        return variables if params is None else {k: v for k, v in variables.items() if k != "params"}

    variables = jax.jit(init)(jax.random.key(seed))
    if params is not None:
        variables["params"] = jax.tree.map(jnp.asarray, params)
    return variables
