"""What a run can be told: the shared recipe as a config, and the check of every value before work begins."""

import difflib
import inspect
import json
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from tpr_jax.config.validate import check_settings, check_values, mix_weight
from tpr_jax.data.annotations import DATASETS
from tpr_jax.data.datasets import SOURCES
from tpr_jax.errors import UserError, shown
from tpr_jax.losses import NAMES as LOSSES
from tpr_jax.models.config import ACTS, CLIP_MINI, DTYPES
from tpr_jax.models.methods import METHODS, Method
from tpr_jax.models.petl_config import ROUTERS
from tpr_jax.optim import SCHEDULES

# These may differ between a run and its resumption: they decide where and how long it runs, not what it
# computes.
FREE_ON_RESUME = (
    *("total_steps", "eval_every", "eval_test_each_time", "checkpoint_every", "log_every", "profile"),
    *("data_dir", "source", "on_bad_image", "on_leak", "mesh", "accumulate", "remat", "scan_layers"),
)

# Of these most papers report the epoch that is best on the test split itself.
BENCHMARKS = ("cuhk_pedes", "icfg_pedes", "rstp_reid")


def base() -> ConfigDict:
    """The recipe that all methods share (METHODS' published values), on CLIP ViT-B/16."""
    return ConfigDict(
        {
            "seed": 0,
            "debug": False,  # True: a run of a few small steps, see debug.py
            "method": {"name": "zero_shot"},
            "backbone": "openai/clip-vit-base-patch16",  # folder, hub id (or NAME@REVISION), or clip-mini
            # Of the backbone, for a file of weights that does not tell; empty: as it says.
            "backbone_act": "",  # 'quick_gelu' (OpenAI) or 'gelu' (LAION, DataComp)
            "backbone_heads": (),  # of the vision and the text tower, such as (12, 8)
            "from_scratch": False,  # ignore the backbone's weights and draw new ones
            "dataset": "cuhk_pedes",
            "data_dir": "",  # empty: data/<name of the data set>, or the bundled MiniPEDES
            "source": "files",  # 'tfds_sized', 'tfds_original': prepared records in data_dir, which may be gs://
            # More to train on: (data set, its folder or "", weight: passes through it an epoch), and so on.
            "mix": (),
            "sampler": "random",  # 'identity': so many examples of each identity in every batch
            "instances_per_identity": 4,  # of a batch, with sampler='identity'
            # Of the training split of `dataset`, those of `mix` stay as they are:
            "few_shot": 0.0,  # fraction of its identities to train on; 0: all
            "few_shot_seed": 0,  # which; the smaller fraction's are among the larger one's
            "noisy_fraction": 0.0,  # fraction of its captions that change places with each other
            "noise_seed": 0,
            "on_bad_image": "error",  # 'skip': go on without pictures that cannot be read, and list them
            "on_leak": "error",  # 'warn': train although a person or a photo is in two splits
            "image_size": (384, 128),  # height, width
            "text_length": 0,  # tokens a caption is cut to; 0: all that the text tower takes
            "augment": True,
            "pad": 10,  # pixels of zeros before the random crop
            "mask_text": True,
            "batch_size": 128,
            "eval_batch_size": 256,
            "num_epochs": 60,
            "total_steps": 0,  # above 0: end the run early
            "eval_every": 1,  # epochs; 0: only at the end
            "eval_test_each_time": False,  # score test too, whose best epoch is what most papers report
            "checkpoint_every": 200,  # steps
            "log_every": 20,  # steps
            "profile": False,  # write a JAX profile of steps 10 to 15 into the workdir
            "dtype": "bfloat16",
            "mesh": {"data": -1, "model": 1},
            "accumulate": 1,  # parts in which a batch goes through the towers; the losses see it whole
            "remat": "none",  # what a block computes again to save memory: 'dots': all but products, 'block'
            "scan_layers": False,  # equal blocks as one loop: less to compile, a copy of the weights a step
            "losses": {name: 0.0 for name in LOSSES} | {"sdm": 1.0},  # name: weight; 0: not used
            "temperature": 0.02,
            "mlm_depth": 4,  # blocks of the head that the loss 'mlm' trains
            "optimizer": {
                "lr": 3e-4,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-3,
                "schedule": "cosine",
                "warmup_epochs": 5.0,
                "warmup_factor": 0.1,
                "milestones": (20, 50),  # epochs at which the schedule 'step' multiplies the rate by `gamma`
                "gamma": 0.1,
                "power": 0.9,  # of the schedules 'poly', power^(1 - part done), and 'exp', power^(part done)
                "per_step": False,  # False: the rate changes once an epoch, as in the reference
                "weight_decay": 4e-5,
                "bias_lr_factor": 2.0,  # biases have no weight decay
                "head_lr_factor": 5.0,  # of what the losses 'id' and 'mlm' train besides (IRRA)
                "clip_norm": 0.0,  # above 0: limit on the gradient's norm
            },
        }
    )


def method_settings(config: ConfigDict) -> dict:
    """The settings of the method without its name."""
    return {key: value for key, value in config.method.to_dict().items() if key != "name"}


def make_method(config: ConfigDict) -> Method:
    """The method that the config names, with its settings.

    Raises:
      UserError: a setting has a value that no method of that name takes.
    """
    try:
        return METHODS[config.method.name](**method_settings(config))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"config.method: a setting of '{config.method.name}' is of the wrong kind ({error}): see its "
            "function in tpr_jax/models/methods.py"
        ) from error


def loss_weights(config: ConfigDict) -> dict[str, float]:
    """The losses in use, by name."""
    return {name: weight for name, weight in config.losses.items() if weight}


def schedule_note(config: ConfigDict) -> str:
    """What a user should know of the schedule: that a run ends before its first milestone; else nothing."""
    milestones, epochs = tuple(config.optimizer.milestones), config.num_epochs
    if config.optimizer.schedule != "step" or any(epoch < epochs for epoch in milestones):
        return ""
    return (
        f"config.optimizer.milestones={milestones} all lie beyond config.num_epochs={epochs}: after its "
        f"warm-up the rate stays the same; --config.optimizer.milestones=({max(1, epochs // 2)},) lowers it"
    )


def instances(config: ConfigDict) -> int:
    """How many examples of each identity a batch has; 0: as chance has it."""
    return config.instances_per_identity if config.sampler == "identity" else 0


def keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """All keys of a config, joined by dots."""
    found = []
    for key, value in config.items():
        found.append(prefix + key)
        found += keys(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else []
    return found


def to_plain(config: ConfigDict) -> dict:
    """A config as JSON would give it back: tuples are lists."""
    return json.loads(json.dumps(config.to_dict()))


def nearest(word: str, known) -> str:
    """', did you mean X?' for the nearest of the known words, or a list of them all."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(map(str, known))}"


def nearest_key(key: str, known: list[str]) -> str:
    """As `nearest`, among the keys beside the one asked for where its part of the config exists."""
    part = key.rpartition(".")[0]
    beside = [name for name in known if name.rpartition(".")[0] == part]
    leaves = [name.rpartition(".")[2] for name in beside]
    close = difflib.get_close_matches(key.rpartition(".")[2], leaves, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{beside[leaves.index(close[0])]}'?"
    return nearest("", beside) if part and beside else nearest(key, known)


def choices(config: ConfigDict) -> dict:
    """The keys whose values are names, and the names that there are."""
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
        "optimizer.schedule": SCHEDULES,
        **({"method.router": ROUTERS} if "router" in config.method else {}),
    }


def check(config: ConfigDict) -> None:
    """Raises a UserError that names the first unusable key and value, and what would do."""
    _check_keys(config)
    for key, known in choices(config).items():
        value = _get(config, key)
        if not isinstance(value, str) or value not in known:
            raise UserError(f"config.{key}={shown(value)} is unknown: {nearest(shown(value), known)}")
    _check_mix(config)
    _check_method(config)
    check_values(config)
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
    """Refuses a config file that adds keys of its own, or does not start from `base`."""
    known, here = keys(base()), keys(config)
    for key in here:
        if key not in known and not key.startswith("method."):
            raise UserError(f"config.{key} is unknown: {nearest_key(key, known)}")
    for key in known:
        if key not in here:
            raise UserError(f"config.{key} is missing: let get_config begin with tpr_jax.config.base()")


def _check_mix(config: ConfigDict) -> None:
    if not isinstance(config.mix, tuple | list):
        raise UserError(
            f"config.mix={shown(config.mix)} must be a list of (data set, its folder or '', weight)"
        )
    for entry in config.mix:
        form = "must be (data set, its folder or '', weight above 0), such as ('folder', 'data/own', 0.5)"
        if not isinstance(entry, tuple | list) or [type(e) for e in entry[:2]] != [str, str]:
            raise UserError(f"config.mix={shown(config.mix)}: {shown(entry)} {form}")
        if wrong := mix_weight(entry[2] if len(entry) == 3 else None):
            raise UserError(f"config.mix={shown(config.mix)}: {shown(entry)} {form} ({wrong})")
        if entry[0] not in DATASETS:
            near = nearest(entry[0], DATASETS)
            raise UserError(f"config.mix={shown(config.mix)}: data set {shown(entry[0])} is unknown: {near}")


def _check_method(config: ConfigDict) -> None:
    """Refuses settings that the method does not have, or could not be built with."""
    parameters = inspect.signature(METHODS[config.method.name]).parameters
    known, settings = list(parameters), method_settings(config)
    for key in settings:
        if key not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UserError(f"config.method.{key} is no setting of method '{config.method.name}': {takes}")
    check_settings(settings)
    filled = {key: parameter.default for key, parameter in parameters.items()} | settings
    experts, top_k = (filled.get(key, 1) for key in ("num_experts", "top_k"))
    if top_k > experts:
        raise UserError(f"config.method.top_k={top_k} must lie between 1 and {experts} experts")
    make_method(config)


def _get(config: ConfigDict, key: str):
    value = config
    for part in key.split("."):
        value = value[part]
    return value


def row_and_dataset(argument: str, rows: Callable[[str], Mapping]) -> tuple[str, str]:
    """(row, data set) of an ablation's argument, `ROW[,DATASET]`, MiniPEDES unless another is named.

    `rows(dataset)` has the names of the ablation's rows as its keys.

    Raises:
      UserError: there is no such row or data set.
    """
    row, _, dataset = argument.partition(",")
    dataset = dataset or "mini_pedes"
    if dataset not in DATASETS:
        raise UserError(f"data set '{dataset}' is unknown: {nearest(dataset, DATASETS)}")
    if row not in rows(dataset):
        raise UserError(f"row '{row}' is unknown: {nearest(row, rows(dataset))}")
    return row, dataset


def for_mini_pedes(config: ConfigDict) -> None:
    """Turns a paper's recipe into one of minutes: MiniPEDES, clip-mini, a rate that moves at every step."""
    config.dataset = "mini_pedes"
    config.backbone = CLIP_MINI
    config.dtype = "float32"  # at this size bfloat16 is slower on a CPU, not faster
    config.image_size = (192, 64)
    config.text_length = 48  # the longest caption has 47 tokens
    config.pad = 5
    config.batch_size = 64
    config.num_epochs = 6  # R@1 on test: 36.6; with ten 37.3
    config.log_every = 10
    config.checkpoint_every = 100
    # clip-mini is a much weaker start than CLIP ViT-B/16, and there are minutes, not hours: larger steps, and
    # a softer temperature. (From an earlier clip-mini an epoch took R@1 on val to 9.9; with 0.02 to 7.4.)
    config.temperature = 0.05
    # SDM's gradient fades where the right photo has next to no probability yet, as it has from such a start;
    # ITC's does not. (From that clip-mini R@1 on val was 14.9 after two epochs, 11.0 without.)
    config.losses.itc = 10.0
    config.optimizer.lr = 3e-3
    config.optimizer.eps = 1e-6
    config.optimizer.warmup_epochs = 0.3
    config.optimizer.per_step = True
