"""Options of the XLA compiler, chosen for the machine and for the type and number of rows of a program."""

import functools

import jax
import jax.numpy as jnp

from tpr_jax.utils.cpu import has_bfloat16_products

# Disables XLA's fusions through YNNPACK on the CPU.
NO_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": ""}


def compiler_options(*, dtype: str, rows: int = 2, platform: str = "") -> dict[str, str]:
    """Returns the `compiler_options` of `jax.jit` for a program.

    On the CPU, YNNPACK is fast where it reaches products of bfloat16 in hardware, and for a single row;
    elsewhere XLA is faster without it, or about as fast. Measured on two cores with jaxlib 0.10.2 ("step" is
    DM-Adapter's):

    | machine          | program                              | with YNNPACK    | without         |
    |------------------|--------------------------------------|-----------------|-----------------|
    | with AMX         | bfloat16, product of 4096 x 4096     | 644-708 GFLOP/s | 130-144 GFLOP/s |
    | with AMX         | bfloat16, step at ViT-B/16, batch 8  | 3.6-3.9 s       | 4.1-7.8 s       |
    | with AMX         | bfloat16, 16 images at ViT-B/16      | 0.85-1.9 s      | 4.6-7.8 s       |
    | with AMX         | float32, step and images             | no difference   | no difference   |
    | with AVX512_BF16 | bfloat16, product of 2048 x 2048     | 912 GFLOP/s     | 337 GFLOP/s     |
    | with AVX512_BF16 | bfloat16, step at ViT-B/16, batch 8  | 1.5 s           | 2.7 s           |
    | with AVX512_BF16 | bfloat16, 16 images at ViT-B/16      | 0.77 s          | 1.50 s          |
    | with AVX512_BF16 | float32, product of 4096 x 4096      | 312 GFLOP/s     | 383 GFLOP/s     |
    | with neither     | float32, step of clip-mini, batch 64 | 0.86 s          | 0.73 s          |
    | with neither     | float32, 16 images at ViT-B/16       | 3.3 s           | 2.8 s           |
    | with neither     | bfloat16, 16 images at ViT-B/16      | 4.9 s           | 3.8 s           |
    | with neither     | float32, one text at ViT-B/16        | 0.050 s         | 0.058 s         |
    | with neither     | bfloat16, one text at ViT-B/16       | 0.08 s          | 0.13 s          |
    | AVX2 only        | float32, product of 4096 x 4096      | 65 GFLOP/s      | 54 GFLOP/s      |
    | AVX2 only        | float32, step at ViT-B/16, batch 8   | 13.1 s          | 13.8 s          |
    | AVX2 only        | float32, step of clip-mini, batch 64 | 1.14 s          | 1.10 s          |
    | AVX2 only        | float32, 8 images at ViT-B/16        | 4.2 s           | 4.2 s           |
    | AVX2 only        | bfloat16, 8 images at ViT-B/16       | 6.0 s           | 4.5 s           |

    Args:
      dtype: the type that the program computes in.
      rows: the number of images or texts in a batch; all numbers above 1 are the same.
      platform: the platform of the program's devices, such as "cpu"; by default JAX's default backend.

    Returns:
      The options; empty where nothing is to be changed, or where this version of XLA has no such option.
    """
    if (platform or jax.default_backend()) != "cpu" or rows == 1:
        return {}
    if jnp.dtype(dtype) == jnp.bfloat16 and has_bfloat16_products():
        return {}
    return dict(NO_YNNPACK) if has_ynnpack() else {}


@functools.cache
def has_ynnpack() -> bool:
    """Returns whether this version of XLA has YNNPACK, without which bfloat16 is multiplied as float32."""
    try:
        jax.jit(jnp.negative).lower(1.0).compile(compiler_options={**NO_YNNPACK})
    except Exception:  # this version of XLA has no such option
        return False
    return True
