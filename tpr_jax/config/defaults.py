"""The config of a run: the shared recipe, and the check of every value before work begins."""

import difflib
import inspect
import json
import math
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from tpr_jax.config.validate import check_settings, check_values, get_value, mix_weight
from tpr_jax.data.datasets import BENCHMARKS, DATASETS, SOURCES
from tpr_jax.errors import UserError, shown
from tpr_jax.losses import DISTILLATION
from tpr_jax.losses import NAMES as LOSSES
from tpr_jax.models.config import ACTS, CLIP_MINI, DTYPES
from tpr_jax.models.methods import METHODS, Method
from tpr_jax.models.petl_config import ROUTERS
from tpr_jax.optim import SCHEDULES
from tpr_jax.utils.suggest import nearest

# Keys that may change when a run is resumed: they determine where and how long it runs, not what it computes.
FREE_ON_RESUME = (
    *("total_steps", "eval_every", "eval_test_each_time", "checkpoint_every", "log_every", "profile"),
    *("data_dir", "source", "on_bad_image", "on_leak", "mesh", "accumulate", "remat", "scan_layers"),
)


def base() -> ConfigDict:
    """Returns the recipe that all methods share (their published values), on CLIP ViT-B/16 and CUHK-PEDES."""
    return ConfigDict(
        {
            "seed": 0,
            "debug": False,  # a run of a few small steps, see debug.py
            "method": {"name": "zero_shot"},
            "backbone": "openai/clip-vit-base-patch16",  # folder, hub id (or NAME@REVISION), or clip-mini
            # For a weights file that does not record these; empty: as recorded.
            "backbone_act": "",  # 'quick_gelu' (OpenAI) or 'gelu' (LAION, DataComp)
            "backbone_heads": (),  # attention heads of the vision and text towers, such as (12, 8)
            "backbone_mean": (),  # mean of red, green and blue, in 0..1; for a file, empty means CLIP's
            "backbone_std": (),
            "from_scratch": False,  # initialize the backbone at random instead of loading its weights
            "dataset": "cuhk_pedes",
            "data_dir": "",  # empty: data/<title of the data set>, or the bundled MiniPEDES
            "source": "files",  # 'tfds_sized', 'tfds_original': prepared records in data_dir (may be gs://)
            # Further training data: a tuple of (data set, its folder or "", weight: passes per epoch).
            "mix": (),
            "sampler": "random",  # 'identity': batches of instances_per_identity examples of each identity
            "instances_per_identity": 4,
            # Above 1: the step encodes each image once, with as many of its captions, and pairs it with each.
            "captions_per_image": 1,
            # These apply to the training split of `dataset`, not to those of `mix`.
            "few_shot": 0.0,  # fraction of the identities to train on; 0: all
            "few_shot_seed": 0,  # a smaller fraction's identities are a subset of a larger one's
            "noisy_fraction": 0.0,  # fraction of the captions that are permuted among themselves
            "noise_seed": 0,
            "on_bad_image": "error",  # 'skip': continue without images that cannot be read, and list them
            "on_leak": "error",  # 'warn': train even if a person or a photo is in two splits
            "image_size": (384, 128),  # height, width
            "text_length": 0,  # tokens a caption is truncated to; 0: the context length of the text tower
            "stretch_text": False,  # whether a longer text_length stretches the text tower's positions
            "patch_dropout": 0.0,  # fraction of the patches of each image that a train step leaves out
            "augment": True,
            "pad": 10,  # pixels of zeros before the random crop
            "mask_text": True,
            "mask_probability": 0.15,  # of each word, for `mask_text` and the loss 'mlm'
            "batch_size": 128,
            "eval_batch_size": 256,
            "num_epochs": 60,
            "total_steps": 0,  # above 0: end the run early
            "eval_every": 1,  # epochs; 0: only at the end
            "eval_test_each_time": False,  # also score test, whose best epoch is what most papers report
            "checkpoint_every": 200,  # steps
            "log_every": 20,  # steps
            "profile": False,  # write a JAX profile of steps 10 to 15 into the workdir
            "dtype": "bfloat16",
            "mesh": {"data": -1, "model": 1},
            "accumulate": 1,  # microbatches that pass through the towers; the losses see the whole batch
            "remat": "none",  # recompute in the backward pass: 'dots': all but matrix products, 'block': all
            "scan_layers": False,  # scan over equal blocks: compiles less, but copies the weights each step
            "losses": dict.fromkeys(LOSSES, 0.0) | {"sdm": 1.0},  # name: weight; 0: unused
            # A model whose features of the same images and captions the student learns (a folder, a hub id or
            # a bundled name), and the weights of two losses: of the features, which must have the student's
            # size, and of the similarities within the batch.
            "distill": {"teacher": "", "feats": 0.0, "scores": 0.0},
            "temperature": 0.02,
            "learn_temperature": False,  # train that of 'sdm', 'itc', 'filip' from this value on
            # Also train the first numbers of the features as features of their own, such as (64, 128).
            "matryoshka": (),
            "sigmoid_from": "paper",  # slope and offset of the loss 'sigmoid'; 'backbone': SigLIP's own
            "mlm_depth": 4,  # transformer blocks of the head for the loss 'mlm'
            "optimizer": {
                "lr": 3e-4,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-3,
                "schedule": "cosine",
                "warmup_epochs": 5.0,
                "warmup_factor": 0.1,
                "milestones": (20, 50),  # epochs where the schedule 'step' multiplies the rate by `gamma`
                "gamma": 0.1,
                "power": 0.9,  # of 'poly', power^(1 - a), and 'exp', power^a, with a the fraction done
                "per_step": False,  # False: the rate changes once an epoch, as in the reference
                "weight_decay": 4e-5,
                "bias_lr_factor": 2.0,  # biases have no weight decay
                "head_lr_factor": 5.0,  # for the heads of the losses 'id' and 'mlm' (IRRA)
                "clip_norm": 0.0,  # above 0: maximum global norm of the gradient
                "block_lr_decay": 1.0,  # factor on the rate from each block to the one below it
                "ema_decay": 0.0,  # above 0: score and keep an average of the weights over the last steps
            },
        }
    )


def recipe(dataset: str, *, mini_pedes: Mapping[str, object] | None = None, **changes) -> ConfigDict:
    """Returns `base()` with a config file's changes, for one data set.

    Benchmarks are also scored on test in each epoch. On MiniPEDES the changes of `for_mini_pedes` come last,
    and then those of `mini_pedes`.

    Args:
      dataset: a key of `datasets.DATASETS`.
      mini_pedes: further changes for MiniPEDES, by flattened key: {"optimizer.lr": 1e-2}.
      **changes: top-level keys and their values. A dict is merged into `losses` and `optimizer`, and replaces
        `method`.
    """
    config = base()
    config.dataset = dataset
    config.eval_test_each_time = dataset in BENCHMARKS
    for key, value in changes.items():
        if key in ("losses", "optimizer"):
            config[key].update(value)
        else:
            config[key] = value
    if dataset == "mini_pedes":
        for_mini_pedes(config)
        config.update_from_flattened_dict(mini_pedes or {})
    return config


def method_settings(config: ConfigDict) -> dict:
    """Returns the settings of the method without its name."""
    return {key: value for key, value in config.method.to_dict().items() if key != "name"}


def make_method(config: ConfigDict) -> Method:
    """Builds the method that the config names, with its settings.

    Raises:
      UserError: the method does not accept the value of a setting.
    """
    try:
        return METHODS[config.method.name](**method_settings(config))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"config.method: a setting of '{config.method.name}' has the wrong type ({error}): see its "
            "function in tpr_jax/models/methods.py"
        ) from error


def loss_weights(config: ConfigDict) -> dict[str, float]:
    """Returns the weights of the losses in use, by name."""
    weights = dict(config.losses) | {f"distill_{name}": config.distill[name] for name in DISTILLATION}
    return {name: weight for name, weight in weights.items() if weight}


def schedule_note(config: ConfigDict, steps_per_epoch: int) -> str:
    """Returns a note if the run ends before the schedule's first milestone, else ''."""
    milestones, epochs = tuple(config.optimizer.milestones), config.num_epochs
    last_step = min(epochs * steps_per_epoch, config.total_steps or math.inf)
    if config.optimizer.schedule != "step" or any(m * steps_per_epoch < last_step for m in milestones):
        return ""
    end = f"config.num_epochs={epochs}"
    if any(epoch < epochs for epoch in milestones):
        end = f"config.total_steps={config.total_steps} ({last_step / steps_per_epoch:.3g} epochs)"
    middle = max(1, int(last_step / steps_per_epoch) // 2)
    remedy = f"; --config.optimizer.milestones=({middle},) lowers it"
    return (
        f"config.optimizer.milestones={milestones} all lie beyond {end}: after its warm-up the rate "
        f"stays the same{remedy if middle * steps_per_epoch < last_step else ''}"
    )


def instances(config: ConfigDict) -> int:
    """Returns the number of examples of each identity in a batch; 0 for random batches."""
    return config.instances_per_identity if config.sampler == "identity" else 0


def keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """Returns all keys of a config, inner and outer, joined by dots."""
    names = []
    for key, value in config.items():
        names.append(prefix + key)
        names += keys(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else []
    return names


def to_plain(config: ConfigDict) -> dict:
    """Returns a config as JSON would return it: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def nearest_key(key: str, known: list[str]) -> str:
    """Returns the hint of `nearest`, first among the keys in the same section of the config."""
    section = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    leaves = [name.rpartition(".")[2] for name in siblings]
    close = difflib.get_close_matches(key.rpartition(".")[2], leaves, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{siblings[leaves.index(close[0])]}'?"
    return nearest("", siblings) if section and siblings else nearest(key, known)


def choices(config: ConfigDict) -> dict:
    """Returns the keys whose values are names, with the allowed names."""
    return {
        "method.name": METHODS,
        "dataset": DATASETS,
        "dtype": DTYPES,
        "backbone_act": ("", *ACTS),
        "on_bad_image": ("error", "skip"),
        "on_leak": ("error", "warn"),
        "source": SOURCES,
        "remat": ("none", "dots", "block"),
        "sampler": ("random", "identity"),
        "sigmoid_from": ("paper", "backbone"),
        "optimizer.schedule": SCHEDULES,
        **({"method.router": ROUTERS} if "router" in config.method else {}),
    }


def check(config: ConfigDict) -> None:
    """Checks every key and value.

    Raises:
      UserError: names the first invalid key and value, and the remedy.
    """
    _check_keys(config)
    for key, known in choices(config).items():
        value = get_value(config, key)
        if not isinstance(value, str) or value not in known:
            raise UserError(f"config.{key}={shown(value)} is unknown: {nearest(shown(value), known)}")
    _check_mix(config)
    _check_method(config)
    check_values(config)
    _check_distill(config)
    if not loss_weights(config):
        raise UserError("config.losses are all 0: give one of them a weight, such as --config.losses.sdm=1")
    if config.losses.balance and not make_method(config).mixtures:
        raise UserError(f"config.losses.balance needs a mixture, but method '{config.method.name}' has none")
    if instances(config) and config.batch_size % config.instances_per_identity:
        raise UserError(
            f"config.batch_size={config.batch_size} must be a multiple of config.instances_per_identity="
            f"{config.instances_per_identity} with config.sampler='identity'"
        )


def _check_keys(config: ConfigDict) -> None:
    """Rejects a config file that adds its own keys or does not start from `base` or `recipe`."""
    known, present = keys(base()), keys(config)
    for key in present:
        if key not in known and not key.startswith("method."):
            raise UserError(f"config.{key} is unknown: {nearest_key(key, known)}")
    for key in known:
        if key not in present:
            raise UserError(f"config.{key} is missing: start get_config with tpr_jax.config.base()")


def _check_mix(config: ConfigDict) -> None:
    if not isinstance(config.mix, tuple | list):
        raise UserError(
            f"config.mix={shown(config.mix)} must be a list of (data set, its folder or '', weight)"
        )
    for entry in config.mix:
        form = "must be (data set, its folder or '', weight above 0), such as ('folder', 'data/own', 0.5)"
        if not isinstance(entry, tuple | list) or [type(e) for e in entry[:2]] != [str, str]:
            raise UserError(f"config.mix={shown(config.mix)}: {shown(entry)} {form}")
        if reason := mix_weight(entry[2] if len(entry) == 3 else None):
            raise UserError(f"config.mix={shown(config.mix)}: {shown(entry)} {form} ({reason})")
        if entry[0] not in DATASETS:
            hint = nearest(entry[0], DATASETS)
            raise UserError(f"config.mix={shown(config.mix)}: data set {shown(entry[0])} is unknown: {hint}")


def _check_distill(config: ConfigDict) -> None:
    """Rejects a teacher without a loss that needs it, and such a loss without a teacher."""
    used = [name for name in DISTILLATION if config.distill[name]]
    if used and not config.distill.teacher:
        raise UserError(
            f"config.distill.{used[0]}={config.distill[used[0]]} needs a teacher: set "
            "config.distill.teacher to a model, such as the folder of a run"
        )
    if config.distill.teacher and not used:
        raise UserError(
            f"config.distill.teacher={config.distill.teacher!r} has no effect: set config.distill.scores=1 "
            "or config.distill.feats=1 as well"
        )


def _check_method(config: ConfigDict) -> None:
    """Rejects settings that the method does not have or cannot be built with."""
    parameters = inspect.signature(METHODS[config.method.name]).parameters
    known, settings = list(parameters), method_settings(config)
    for key in settings:
        if key not in known:
            remedy = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UserError(
                f"config.method.{key} is not a setting of method '{config.method.name}': {remedy}"
            )
    check_settings(settings)
    filled = {key: parameter.default for key, parameter in parameters.items()} | settings
    experts, top_k = (filled.get(key, 1) for key in ("num_experts", "top_k"))
    if top_k > experts:
        raise UserError(f"config.method.top_k={top_k} must lie between 1 and {experts} experts")
    make_method(config)


def row_and_dataset(argument: str, rows: Callable[[str], Mapping]) -> tuple[str, str]:
    """Parses an ablation's argument `ROW[,DATASET]` into (row, data set); the default is MiniPEDES.

    Args:
      argument: the text after the colon of `--config`.
      rows: maps a data set to a mapping whose keys are the ablation's rows.

    Raises:
      UserError: the row or data set is unknown.
    """
    row, _, dataset = argument.partition(",")
    dataset = dataset or "mini_pedes"
    if dataset not in DATASETS:
        raise UserError(f"data set '{dataset}' is unknown: {nearest(dataset, DATASETS)}")
    if row not in rows(dataset):
        raise UserError(f"row '{row}' is unknown: {nearest(row, rows(dataset))}")
    return row, dataset


def for_mini_pedes(config: ConfigDict) -> None:
    """Changes a paper's recipe, in place, to one that trains clip-mini on MiniPEDES within minutes."""
    config.dataset = "mini_pedes"
    config.backbone = CLIP_MINI
    config.dtype = "float32"  # many CPUs do not multiply bfloat16; with it, the others save a quarter
    config.image_size = (192, 64)
    config.text_length = 48  # the longest caption has 47 tokens
    config.pad = 5
    config.batch_size = 64
    config.num_epochs = 6  # R@1 on test: 36.0
    config.log_every = 10
    config.checkpoint_every = 100
    # clip-mini is much weaker than CLIP ViT-B/16 and the run takes minutes, not hours, so it needs larger
    # steps and a softer temperature. (With an earlier clip-mini, R@1 on val after an epoch was 9.9; with
    # 0.02, 7.4.)
    config.temperature = 0.05
    # SDM's gradient vanishes while the matching image has almost no probability, as with such a weak start;
    # ITC's does not. (With that clip-mini, R@1 on val after two epochs was 14.9; without ITC, 11.0.)
    config.losses.itc = 10.0
    config.optimizer.lr = 3e-3
    config.optimizer.eps = 1e-6
    config.optimizer.warmup_epochs = 0.3
    config.optimizer.per_step = True
