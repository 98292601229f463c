"""The config of a run: `base()`, `recipe()`, and the helpers of config files and programs."""

from tpr_jax.config.defaults import (
    BENCHMARKS,
    base,
    check,
    choices,
    for_mini_pedes,
    instances,
    keys,
    loss_weights,
    make_method,
    method_settings,
    nearest,
    nearest_key,
    recipe,
    row_and_dataset,
    schedule_note,
    to_plain,
)

__all__ = [
    "BENCHMARKS",
    "base",
    "check",
    "choices",
    "for_mini_pedes",
    "instances",
    "keys",
    "loss_weights",
    "make_method",
    "method_settings",
    "nearest",
    "nearest_key",
    "recipe",
    "row_and_dataset",
    "schedule_note",
    "to_plain",
]
