"""The config of a run: `base()`, `recipe()`, and what config files and programs use beside them."""

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
