"""The rule that the value of each config key must satisfy; `defaults.choices` lists the keys that hold names.

A rule maps a value to an error such as 'must be at least 1', or to '' if the value is valid. Numbers are
limited to the range of float32, the type of the computation: smaller ones would become 0, larger ones
infinite. XLA also takes subnormal numbers for 0.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from tpr_jax.errors import UserError, shown
from tpr_jax.losses import DISTILLATION
from tpr_jax.losses import NAMES as LOSSES
from tpr_jax.models.petl_config import LARGEST_FLOAT, MOST_EXPERTS
from tpr_jax.utils.seeds import LARGEST_SEED

Rule = Callable[[object], str]

LARGEST_INT = 2**31 - 1
SMALLEST_FLOAT = float(np.finfo(np.float32).tiny)  # the smallest normal float32 above 0
# The square of a gradient below 1e-19 is 0 in float32: with a smaller eps the optimizer would divide such a
# gradient by less than itself, and 0 by 0.
SMALLEST_EPS = 1e-20
# Logits are cosines over the temperature.
TEMPERATURES = (1e-6, 1e6)
# Limits on sizes that take memory before the model, the data or the devices can be checked.
LARGEST_SIDE, LARGEST_EVAL_BATCH, DEEPEST_HEAD = 8192, 2**16, 100
MOST_PASSES, MOST_HEADS = 1000, 1024
# Start of text, a word, end of text.
SHORTEST_TEXT = 3


def integer(low: int = 0, high: int = LARGEST_INT, message: str = "") -> Rule:
    """Returns the rule for whole numbers from `low` to `high`; `message` is for other values below `high`."""

    def rule(value) -> str:
        if not is_integer(value):
            return message or "must be a whole number"
        if value < low:
            return message or ("must be a number and not negative" if low == 0 else f"must be at least {low}")
        return f"must be at most {high}" if value > high else ""

    return rule


def number(low: float = 0.0, high: float = LARGEST_FLOAT, *, exclusive: bool = False) -> Rule:
    """Returns the rule for numbers from `low` to `high` in float32; `exclusive` excludes `high`."""

    def rule(value) -> str:
        if not is_number(value) or value < low:
            return "must be a number and not negative" if low == 0 else f"must be at least {low}"
        if _becomes_zero(value):
            return f"would be 0 in float32: must be 0, or at least {SMALLEST_FLOAT:.3g}"
        too_large = np.float32(value) >= np.float32(high) if exclusive else value > high
        return f"must be {'below' if exclusive else 'at most'} {high:g}" if too_large else ""

    return rule


def fraction(message: str = "must lie between 0 and 1", positive: bool = False) -> Rule:
    """Returns the rule for numbers from 0 to 1; `positive` excludes 0."""

    def rule(value) -> str:
        valid = (
            is_number(value) and 0 <= value <= 1 and not _becomes_zero(value) and (value > 0 or not positive)
        )
        return "" if valid else message

    return rule


def boolean(value) -> str:
    """Checks that a value is True or False."""
    return "" if isinstance(value, bool) else "must be True or False"


def string(value) -> str:
    """Checks that a value is a string, which may be empty."""
    return "" if isinstance(value, str) else "must be a string"


def nonempty_string(value) -> str:
    """Checks that a value is a string that is not blank."""
    return "" if isinstance(value, str) and value.strip() else "must be a string, and not an empty one"


def optional(rule: Rule) -> Rule:
    """Returns a rule that also accepts None."""
    return lambda value: "" if value is None else rule(value)


def is_integer(value) -> bool:
    """Returns whether a value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value) -> bool:
    """Returns whether a value is a number, not a bool, that float32 can hold."""
    if not (is_integer(value) or isinstance(value, float)):
        return False
    return -LARGEST_FLOAT <= value <= LARGEST_FLOAT  # false for NaN


def _becomes_zero(value: float) -> bool:
    """Returns whether a number other than 0 is 0 in the computation."""
    return 0 < abs(value) < SMALLEST_FLOAT


def _temperature(value) -> str:
    low, high = TEMPERATURES
    valid = is_number(value) and low <= value <= high
    return "" if valid else f"must be above 0: from {low:g} to {high:g}"


def _image_size(value) -> str:
    pair = isinstance(value, tuple | list) and len(value) == 2
    if not pair or not all(is_integer(side) and side > 0 for side in value):
        return "must be (height, width) in pixels, such as (384,128)"
    return f"must be at most {LARGEST_SIDE} pixels high and wide" if max(value) > LARGEST_SIDE else ""


def _text_length(value) -> str:
    if is_integer(value) and (value == 0 or SHORTEST_TEXT <= value <= LARGEST_INT):
        return ""
    return f"must be 0, the text tower's context length, or at least {SHORTEST_TEXT}"


def _devices(value) -> str:
    valid = is_integer(value) and (value == -1 or 1 <= value <= LARGEST_INT)
    return "" if valid else "must be a number of devices, or -1 for all remaining devices"


def _milestones(value) -> str:
    epochs = list(value) if isinstance(value, tuple | list) else [0]
    valid = all(is_integer(epoch) and 1 <= epoch <= LARGEST_INT for epoch in epochs)
    if valid and all(a < b for a, b in itertools.pairwise(epochs)):
        return ""
    return "must be increasing whole epochs from 1 on, such as (20,50)"


def _heads(value) -> str:
    valid = isinstance(value, tuple | list) and len(value) in (0, 2)
    if valid and all(is_integer(heads) and 0 < heads <= MOST_HEADS for heads in value):
        return ""
    return "must be two whole numbers, for the vision and the text tower, such as (12,8), or empty"


def _channels(value) -> str:
    valid = isinstance(value, tuple | list) and len(value) in (0, 3)
    return (
        "" if valid and all(map(is_number, value)) else "must be three numbers: red, green and blue, or empty"
    )


def _positive_channels(value) -> str:
    return _channels(value) or (
        "" if all(v >= SMALLEST_FLOAT for v in value) else "must be three numbers above 0, or empty"
    )


def _sizes(value) -> str:
    valid = isinstance(value, tuple | list) and all(is_integer(size) and size > 0 for size in value)
    if valid and all(a < b for a, b in itertools.pairwise(value)):
        return ""
    return "must be increasing whole numbers above 0, such as (64,128), or empty"


def mix_weight(value) -> str:
    """Checks the weight of a data set of `mix`: its passes per epoch."""
    return "" if is_number(value) and 0 < value <= MOST_PASSES else f"weight above 0, at most {MOST_PASSES}"


RULES: dict[str, Rule] = {
    **dict.fromkeys(("seed", "few_shot_seed", "noise_seed"), integer(0, LARGEST_SEED)),
    **dict.fromkeys(("debug", "from_scratch", "stretch_text", "augment", "mask_text"), boolean),
    "learn_temperature": boolean,
    "mask_probability": fraction(),
    "patch_dropout": number(0, 1, exclusive=True),
    "matryoshka": _sizes,
    **dict.fromkeys(("eval_test_each_time", "profile", "scan_layers", "optimizer.per_step"), boolean),
    "backbone": nonempty_string,
    "backbone_heads": _heads,
    "backbone_mean": _channels,
    "backbone_std": _positive_channels,
    "data_dir": string,
    **dict.fromkeys(("few_shot", "noisy_fraction"), fraction("must lie between 0 and 1: 5 % is 0.05")),
    "image_size": _image_size,
    "text_length": _text_length,
    **dict.fromkeys(("pad", "total_steps", "eval_every"), integer(0)),
    **dict.fromkeys(("batch_size", "accumulate", "instances_per_identity", "captions_per_image"), integer(1)),
    **dict.fromkeys(("num_epochs", "checkpoint_every", "log_every"), integer(1)),
    "eval_batch_size": integer(1, LARGEST_EVAL_BATCH),
    "mlm_depth": integer(1, DEEPEST_HEAD),
    **dict.fromkeys(("mesh.data", "mesh.model"), _devices),
    "temperature": _temperature,
    "distill.teacher": string,
    **{f"distill.{name}": number() for name in DISTILLATION},
    **{f"losses.{name}": number() for name in LOSSES},
    **dict.fromkeys(("optimizer.b1", "optimizer.b2", "optimizer.ema_decay"), number(0, 1, exclusive=True)),
    "optimizer.block_lr_decay": fraction("must be above 0 and at most 1", True),
    "optimizer.eps": number(SMALLEST_EPS),
    **dict.fromkeys(("optimizer.lr", "optimizer.weight_decay", "optimizer.clip_norm"), number()),
    **dict.fromkeys(("optimizer.bias_lr_factor", "optimizer.head_lr_factor"), number()),
    "optimizer.warmup_epochs": number(),
    "optimizer.warmup_factor": fraction(),
    "optimizer.milestones": _milestones,
    **dict.fromkeys(("optimizer.gamma", "optimizer.power"), fraction("must be above 0 and at most 1", True)),
}


def get_value(config: ConfigDict, key: str):
    """Returns the value of a key whose levels are joined by dots."""
    value = config
    for level in key.split("."):
        value = value[level]
    return value


def check_values(config: ConfigDict) -> None:
    """Checks the value of every key that has a rule.

    Raises:
      UserError: names the first key whose value breaks its rule.
    """
    for key, rule in RULES.items():
        value = get_value(config, key)
        if reason := rule(value):
            raise UserError(f"config.{key}={shown(value)} {reason}")
    side = min(config.image_size)
    if config.augment and config.pad >= side:
        raise UserError(
            f"config.pad={config.pad} must be below {side}, the shorter side of config.image_size="
            f"{tuple(config.image_size)}: some crops would show nothing of the image"
        )


# Rules for the settings of methods. Limits that depend on a tower's width, depth or context length are
# checked in `models/petl_config.py`.


def _positive_integer(high: int = LARGEST_INT) -> Rule:
    return integer(1, high, message="must be a whole number of at least 1")


def _scales(value) -> str:
    valid = isinstance(value, tuple | list) and len(value) == 2 and all(map(is_number, value))
    return "" if valid else "must be two numbers: for the vision and the text tower"


def _scale(value) -> str:
    try:
        valid = value == "learned" or is_number(float(value) if isinstance(value, str) else value)
    except ValueError:
        valid = False
    return "" if valid else "must be a number, or learned if the module has its own scale"


def _names(value) -> str:
    valid = isinstance(value, tuple | list) and all(isinstance(name, str) for name in value)
    return "" if valid else "must be a list of names"


def _layers(value) -> str:
    valid = isinstance(value, tuple | list) and len(value) == 2
    valid = valid and is_integer(value[0]) and (value[1] is None or is_integer(value[1]))
    return "" if valid else "must be (first block, end), with None as the end for all blocks that follow"


def _prompts(value) -> str:
    return "" if isinstance(value, Mapping | None) else _positive_integer()(value)


def _gate(value) -> str:
    return "" if is_number(value) else "must be a number or None"


SETTINGS: dict[str, Rule] = {
    **dict.fromkeys(("num_experts", "top_k"), _positive_integer(MOST_EXPERTS)),
    **dict.fromkeys(("reduction", "rank", "prefix", "length"), _positive_integer()),
    **dict.fromkeys(("depth", "depth_lora", "depth_prefix"), optional(_positive_integer())),
    "depth_adapter": integer(0, message="must be a whole number and not negative"),
    "prompts": _prompts,
    "scales": _scales,
    "scale": _scale,
    **dict.fromkeys(("vanilla", "dora", "scaled"), boolean),
    **dict.fromkeys(("use", "targets", "tuned"), _names),
    "layers": _layers,
    "gate": optional(_gate),
    **dict.fromkeys(("router", "version", "direction"), nonempty_string),
}


def check_settings(settings: Mapping) -> None:
    """Checks the settings of a method.

    Raises:
      UserError: names the first setting whose value breaks its rule.
    """
    for key, value in settings.items():
        if key in SETTINGS and (reason := SETTINGS[key](value)):
            raise UserError(f"config.method.{key}={shown(value)} {reason}")
