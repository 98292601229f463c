"""The models that the benchmarks measure, with random inputs, and a compiled benchmark."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from ml_collections import ConfigDict

from tpr_jax.models.config import ClipConfig
from tpr_jax.models.methods import Method

VIT_B_16, CLIP_MINI = "vit_b_16", "clip_mini"  # backbones; the others are the names of `models.config.NAMED`


class Case(NamedTuple):
    """A compiled benchmark.

    Attributes:
      run: runs the benchmark once and waits for the result.
      flops: the analytic minimum of floating-point operations of one run; 0 where it is not counted.
      compile_seconds: how long compilation took.
      hlo_text: returns the compiled program's HLO text; an empty string if there is no program.
    """

    run: Callable[[], object]
    flops: float = 0.0
    compile_seconds: float = 0.0
    hlo_text: Callable[[], str] = str


class BuiltModel(NamedTuple):
    """A config and the model that it describes; `functions` is `models.clip.build`'s dict."""

    config: ConfigDict
    clip_config: ClipConfig
    method: Method
    functions: dict[str, Callable]


def build_model(config: str, backbone: str, dtype: str, batch: int, **config_overrides) -> BuiltModel:
    """Builds the model of `configs/CONFIG.py`, without its weights."""
    from tpr_jax.aot.programs import sizes_of
    from tpr_jax.config import defaults as config_lib
    from tpr_jax.models import clip

    run_config = read_config(config, backbone, batch_size=batch, dtype=dtype, **config_overrides)
    clip_config, method = sizes_of(run_config), config_lib.make_method(run_config)
    functions = clip.build(
        clip_config, method, dtype, remat=run_config.remat, scan_layers=run_config.scan_layers
    )
    return BuiltModel(run_config, clip_config, method, functions)


def read_config(name: str, backbone: str, **config_overrides) -> ConfigDict:
    """Reads `configs/NAME.py` for a backbone: at the benchmarks' image size, except for clip-mini."""
    from tpr_jax.config.flags import parse_flags

    if backbone not in (VIT_B_16, CLIP_MINI):
        config_overrides["backbone"] = backbone
    overrides = [f"--config.{key}={value}" for key, value in config_overrides.items()]
    path = f"configs/{name}.py{'' if backbone == CLIP_MINI else ':cuhk_pedes'}"
    return parse_flags(["bench", "--config", path, "--workdir", "unused", *overrides])[0]


def random_batch(
    clip_config: ClipConfig, batch: int, captions: int = 1, kept_patches: int | None = None
) -> dict[str, UInt8[np.ndarray, "b h w 3"] | Int32[np.ndarray, "b ..."]]:
    """Returns random `image`, full-length `ids` and `pid`, with two rows of each identity.

    Args:
      clip_config: the sizes of the model.
      batch: b, the number of images.
      captions: c, the captions of each image: above 1, `ids` are [b, c, l].
      kept_patches: k, the patches of each image that are read; None is all. If fewer, `patches` are [b, k].
    """
    rng = np.random.default_rng(0)
    rows = (batch,) if captions == 1 else (batch, captions)
    ids = rng.integers(1, clip_config.vocab_size - 3, (*rows, clip_config.context_length), np.int32)
    ids[..., -1] = clip_config.vocab_size - 1
    inputs = {
        "image": rng.integers(0, 256, (batch, *clip_config.image_size, 3), np.uint8),
        "ids": ids,
        "pid": np.arange(batch, dtype=np.int32) // 2,
    }
    if kept_patches is not None and kept_patches < clip_config.num_patches:
        every = np.tile(np.arange(clip_config.num_patches, dtype=np.int32), (batch, 1))
        inputs["patches"] = np.sort(rng.permuted(every, axis=1)[:, :kept_patches], axis=1)
    return inputs
