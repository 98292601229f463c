"""Options of the XLA compiler, chosen for the machine and for the type and number of rows of a program."""

import functools

import jax
import jax.numpy as jnp

from tpr_jax.utils.cpu import has_bfloat16_matrix_unit

# Disables XLA's fusions through YNNPACK on the CPU.
NO_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": ""}


def compiler_options(*, dtype: str, rows: int = 2, platform: str = "") -> dict[str, str]:
    """Returns the `compiler_options` of `jax.jit` for a program.

    On the CPU, YNNPACK is fast where it reaches a matrix unit, and for a single row; elsewhere XLA is faster
    without it. Measured on two cores with jaxlib 0.10.2 ("step" is DM-Adapter's):

    | machine     | program                               | with YNNPACK    | without         |
    |-------------|---------------------------------------|-----------------|-----------------|
    | with AMX    | bfloat16, product of 4096 x 4096      | 644-708 GFLOP/s | 130-144 GFLOP/s |
    | with AMX    | bfloat16, step at ViT-B/16, batch 8   | 3.6-3.9 s       | 4.1-7.8 s       |
    | with AMX    | bfloat16, 16 images at ViT-B/16       | 0.85-1.9 s      | 4.6-7.8 s       |
    | with AMX    | float32, step and images              | no difference   | no difference   |
    | without AMX | float32, step of clip-mini, batch 64  | 0.86 s          | 0.73 s          |
    | without AMX | float32, 16 images at ViT-B/16        | 3.3 s           | 2.8 s           |
    | without AMX | bfloat16, 16 images at ViT-B/16       | 4.9 s           | 3.8 s           |
    | without AMX | float32, one text at ViT-B/16         | 0.050 s         | 0.058 s         |
    | without AMX | bfloat16, one text at ViT-B/16        | 0.08 s          | 0.13 s          |

    Args:
      dtype: the type that the program computes in.
      rows: the number of images or texts in a batch; all numbers above 1 are the same.
      platform: the platform of the program's devices, such as "cpu"; by default JAX's default backend.

    Returns:
      The options; empty where nothing is to be changed, or where this version of XLA has no such option.
    """
    if (platform or jax.default_backend()) != "cpu" or rows == 1:
        return {}
    if jnp.dtype(dtype) == jnp.bfloat16 and has_bfloat16_matrix_unit():
        return {}
    return dict(NO_YNNPACK) if _is_accepted() else {}


@functools.cache
def _is_accepted() -> bool:
    try:
        jax.jit(jnp.negative).lower(1.0).compile(compiler_options={**NO_YNNPACK})
    except Exception:  # this version of XLA has no such option
        return False
    return True
