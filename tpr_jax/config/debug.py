"""Reduces any run to about a minute on a CPU, for `--config.debug=True`."""

from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from tpr_jax.models.config import CLIP_MINI

# A run of a few steps that trains, logs, saves, and evaluates once at the end.
SMALL = {
    "image_size": (96, 32),
    "pad": 3,
    "batch_size": 16,
    "eval_batch_size": 64,
    "total_steps": 4,
    "log_every": 1,
    "checkpoint_every": 2,
    "eval_every": 0,
    "eval_test_each_time": False,
    "dtype": "float32",
}
# clip-mini's text tower has fewer blocks than any other and its features fewer numbers, which limits these
# settings.
BLOCKS, FEATURE_SIZE = 4, 128
DEPTHS = {"depth": BLOCKS, "depth_lora": BLOCKS, "depth_prefix": BLOCKS, "depth_adapter": BLOCKS - 1}


def shrink(config: ConfigDict, overridden: Collection[str] = ()) -> None:
    """Makes a run small, in place, and sets `debug`; does not change method, losses and optimizer.

    Args:
      config: the config to change.
      overridden: the keys set on the command line, which are not changed. MiniPEDES replaces the data set
        unless they contain `data_dir` or `dataset`, and clip-mini the backbone unless they contain
        `backbone`.
    """
    config.debug = True
    changes: dict[str, Any] = dict(SMALL)
    if not {"data_dir", "dataset"} & set(overridden):
        changes |= {"dataset": "mini_pedes", "data_dir": "", "source": "files", "mix": ()}
    if "backbone" not in overridden:
        sizes = tuple(size for size in config.matryoshka if size < FEATURE_SIZE)
        changes |= {"backbone": CLIP_MINI, "text_length": 32, "matryoshka": sizes}
        for key, limit in DEPTHS.items():
            if isinstance(value := config.method.get(key), int):
                changes[f"method.{key}"] = min(value, limit)
    config.update_from_flattened_dict({key: value for key, value in changes.items() if key not in overridden})
