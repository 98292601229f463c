"""Which values each key of a config may have; names of which there are only a few are checked in `config.py`.

A rule is a function of a value that returns what is wrong with it, such as 'must be at least 1', or nothing.
Numbers are computed with in float32, whose range bounds them: below it a number becomes 0, above it infinite.
"""

from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from tpr_jax.errors import UserError, shown
from tpr_jax.losses import NAMES as LOSSES
from tpr_jax.models.petl_config import LARGEST_FLOAT, MOST_EXPERTS
from tpr_jax.utils.seeds import LARGEST_SEED

Rule = Callable[[object], str]

LARGEST_INT = 2**31 - 1
# The square of a gradient below 1e-19 is 0 in float32: a smaller eps would divide such a gradient by less
# than itself, and 0 by 0.
SMALLEST_EPS = 1e-20
# Logits are cosines over the temperature.
TEMPERATURES = (1e-6, 1e6)
# Bounds of sizes that take memory before anything can be said about the model, the data, or the devices.
LARGEST_SIDE, LARGEST_EVAL_BATCH, DEEPEST_HEAD = 8192, 2**16, 100
MOST_PASSES, MOST_HEADS = 1000, 1024
# Start-of-text, a word, end-of-text.
SHORTEST_TEXT = 3


def whole(low: int = 0, high: int = LARGEST_INT, said: str = "") -> Rule:
    """Returns the rule of whole numbers from `low` to `high`; `said` is what to say of others below."""

    def rule(value) -> str:
        if not is_whole(value):
            return said or "must be a whole number"
        if value < low:
            return said or ("must be a number and not negative" if low == 0 else f"must be at least {low}")
        return f"must be at most {high}" if value > high else ""

    return rule


def number(low: float = 0.0, high: float = LARGEST_FLOAT, *, said: str = "", below: bool = False) -> Rule:
    """Returns the rule of numbers from `low` to `high`, or `below` it, as float32 has them."""
    said = said or ("must be a number and not negative" if low == 0 else f"must be at least {low}")

    def rule(value) -> str:
        if not is_number(value) or value < low:
            return said
        too_large = np.float32(value) >= np.float32(high) if below else value > high
        return f"must be {'below' if below else 'at most'} {high:g}" if too_large else ""

    return rule


def share(said: str = "must lie between 0 and 1", above: bool = False) -> Rule:
    """Returns the rule of numbers from 0 to 1, or `above` 0."""

    def rule(value) -> str:
        good = is_number(value) and 0 <= value <= 1 and not (above and np.float32(value) == 0)
        return "" if good else said

    return rule


def flag(value) -> str:
    """The rule of True and False."""
    return "" if isinstance(value, bool) else "must be True or False"


def text(value) -> str:
    """The rule of texts that may be empty."""
    return "" if isinstance(value, str) else "must be a text"


def some_text(value) -> str:
    """The rule of texts that may not be empty."""
    return "" if isinstance(value, str) and value.strip() else "must be a text, and not an empty one"


def or_none(rule: Rule) -> Rule:
    """Returns a rule that accepts None besides."""
    return lambda value: "" if value is None else rule(value)


def is_whole(value) -> bool:
    """Whether a value is an int, which a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value) -> bool:
    """Whether a value is a number, not a bool, that float32 can hold."""
    if not (is_whole(value) or isinstance(value, float)):
        return False
    return -LARGEST_FLOAT <= value <= LARGEST_FLOAT  # not so of NaN


def _temperature(value) -> str:
    low, high = TEMPERATURES
    good = is_number(value) and low <= value <= high
    return "" if good else f"must be above 0: from {low:g} to {high:g}"


def _image_size(value) -> str:
    pair = isinstance(value, tuple | list) and len(value) == 2
    if not pair or not all(is_whole(side) and side > 0 for side in value):
        return "must be (height, width) in pixels, such as (384,128)"
    return f"must be at most {LARGEST_SIDE} pixels high and wide" if max(value) > LARGEST_SIDE else ""


def _text_length(value) -> str:
    if is_whole(value) and (value == 0 or SHORTEST_TEXT <= value <= LARGEST_INT):
        return ""
    return f"must be 0, which takes all that the text tower holds, or at least {SHORTEST_TEXT}"


def _devices(value) -> str:
    good = is_whole(value) and (value == -1 or 1 <= value <= LARGEST_INT)
    return "" if good else "must be a number of devices, or -1 for all that are left"


def _milestones(value) -> str:
    epochs = list(value) if isinstance(value, tuple | list) else [0]
    good = all(is_whole(epoch) and 1 <= epoch <= LARGEST_INT for epoch in epochs)
    if good and all(a < b for a, b in zip(epochs, epochs[1:], strict=False)):
        return ""
    return "must be whole epochs from 1 on, each later than the one before, such as (20,50)"


def _heads(value) -> str:
    good = isinstance(value, tuple | list) and len(value) in (0, 2)
    if good and all(is_whole(heads) and 0 < heads <= MOST_HEADS for heads in value):
        return ""
    return "must be two whole numbers, of the vision and the text tower, such as (12,8), or empty"


def mix_weight(value) -> str:
    """The rule of how often an epoch passes through a data set of `mix`."""
    return "" if is_number(value) and 0 < value <= MOST_PASSES else f"weight above 0, at most {MOST_PASSES}"


RULES: dict[str, Rule] = {
    **dict.fromkeys(("seed", "few_shot_seed", "noise_seed"), whole(0, LARGEST_SEED)),
    **dict.fromkeys(("debug", "from_scratch", "augment", "mask_text", "eval_test_each_time"), flag),
    **dict.fromkeys(("profile", "scan_layers", "optimizer.per_step"), flag),
    "backbone": some_text,
    "backbone_heads": _heads,
    "data_dir": text,
    **dict.fromkeys(("few_shot", "noisy_fraction"), share("must lie between 0 and 1: 5 % is 0.05")),
    "image_size": _image_size,
    "text_length": _text_length,
    **dict.fromkeys(("pad", "total_steps", "eval_every"), whole(0)),
    **dict.fromkeys(("batch_size", "accumulate", "instances_per_identity"), whole(1)),
    **dict.fromkeys(("num_epochs", "checkpoint_every", "log_every"), whole(1)),
    "eval_batch_size": whole(1, LARGEST_EVAL_BATCH),
    "mlm_depth": whole(1, DEEPEST_HEAD),
    **dict.fromkeys(("mesh.data", "mesh.model"), _devices),
    "temperature": _temperature,
    **{f"losses.{name}": number() for name in LOSSES},
    **dict.fromkeys(("optimizer.b1", "optimizer.b2"), number(0, 1, below=True)),
    "optimizer.eps": number(SMALLEST_EPS),
    **dict.fromkeys(("optimizer.lr", "optimizer.weight_decay", "optimizer.clip_norm"), number()),
    **dict.fromkeys(("optimizer.bias_lr_factor", "optimizer.head_lr_factor"), number()),
    "optimizer.warmup_epochs": number(),
    "optimizer.warmup_factor": share(),
    "optimizer.milestones": _milestones,
    **dict.fromkeys(("optimizer.gamma", "optimizer.power"), share("must be above 0 and at most 1", True)),
}


def check_values(config: ConfigDict) -> None:
    """Raises a UserError that names the first key whose value breaks its rule."""
    for key, rule in RULES.items():
        value = config
        for part in key.split("."):
            value = value[part]
        if wrong := rule(value):
            raise UserError(f"config.{key}={shown(value)} {wrong}")
    side = min(config.image_size)
    if config.augment and config.pad >= side:
        raise UserError(
            f"config.pad={config.pad} must be below {side}, the shorter side of config.image_size="
            f"{tuple(config.image_size)}: some crops would show nothing of the picture"
        )


# Of methods. What a tower of some width, depth or context takes is checked where that is known, in
# `models/petl_config.py`.


def _count(high: int = LARGEST_INT) -> Rule:
    return whole(1, high, said="must be a whole number of at least 1")


def _scales(value) -> str:
    good = isinstance(value, tuple | list) and len(value) == 2 and all(map(is_number, value))
    return "" if good else "must be two numbers: of the vision and the text tower"


def _scale(value) -> str:
    try:
        good = value == "learned" or is_number(float(value) if isinstance(value, str) else value)
    except ValueError:
        good = False
    return "" if good else "must be a number, or learned where the part has a scale of its own"


def _names(value) -> str:
    good = isinstance(value, tuple | list) and all(isinstance(name, str) for name in value)
    return "" if good else "must be a list of names"


def _layers(value) -> str:
    good = isinstance(value, tuple | list) and len(value) == 2
    good = good and is_whole(value[0]) and (value[1] is None or is_whole(value[1]))
    return "" if good else "must be (first block, end), the end None for all that follow"


def _prompts(value) -> str:
    return "" if isinstance(value, Mapping | None) else _count()(value)


def _gate(value) -> str:
    return "" if is_number(value) else "must be a number or None"


SETTINGS: dict[str, Rule] = {
    **dict.fromkeys(("num_experts", "top_k"), _count(MOST_EXPERTS)),
    **dict.fromkeys(("reduction", "rank", "prefix", "length"), _count()),
    **dict.fromkeys(("depth", "depth_lora", "depth_prefix"), or_none(_count())),
    "depth_adapter": whole(0, said="must be a whole number and not negative"),
    "prompts": _prompts,
    "scales": _scales,
    "scale": _scale,
    **dict.fromkeys(("vanilla", "dora", "scaled"), flag),
    **dict.fromkeys(("use", "targets", "tuned"), _names),
    "layers": _layers,
    "gate": or_none(_gate),
    **dict.fromkeys(("router", "version", "direction"), some_text),
}


def check_settings(settings: Mapping) -> None:
    """Raises a UserError that names the first setting of a method whose value breaks its rule."""
    for key, value in settings.items():
        if key in SETTINGS and (wrong := SETTINGS[key](value)):
            raise UserError(f"config.method.{key}={shown(value)} {wrong}")
