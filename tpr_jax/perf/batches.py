"""Chooses how many images an encoder takes at once, where the caller leaves it to the machine."""

import os

import jax

from tpr_jax.models.config import ClipConfig

MOST = 32  # what accelerators take by default, too
CACHE_BYTES = 20_000_000


def images_at_once(config: ClipConfig) -> int:
    """Returns the number of images in a batch of an encoder; on a CPU, so many that its caches hold them.

    But one for each core, because the cores share a batch (measured on two cores only).

    A tower is fastest as long as the last cache holds its largest array, the hidden layer of the perceptron
    in float32. ViT-B/16 at 384 x 128, where an image has 2.4 MB of it, on two cores of an EPYC (Zen 5) with
    32 MB of cache, the minimum of three or four turns, in GFLOP/s:

    | images at once | 4   | 8   | 16  | 24  | 32  | 64  |
    |----------------|-----|-----|-----|-----|-----|-----|
    | bfloat16       | 779 | 777 | 739 | 709 | 599 | 531 |
    | float32        |     | 404 | 393 |     | 400 |     |

    On two cores of an EPYC (Zen 1) with 8 MB of cache and AVX2 only, float32 reached 60 to 62 GFLOP/s with
    4 to 32 images.
    """
    if jax.default_backend() != "cpu":
        return MOST
    hidden, cores = 4 * config.vision_positions * config.vision_mlp, os.cpu_count() or 1
    sizes = (MOST, 16, 8, 4, 2)
    return next((size for size in sizes if size * hidden <= CACHE_BYTES or size <= cores), 1)
