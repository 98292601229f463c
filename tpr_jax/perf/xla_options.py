"""Options of the XLA compiler, chosen for the platform and the shape of a program."""

import functools

import jax
import jax.numpy as jnp


@functools.cache
def compiler_options(platform: str = "") -> dict[str, str]:
    """Returns the `compiler_options` for `jax.jit` on devices of a platform.

    Disables XLA's fusions through YNNPACK on the CPU: without them the step of clip-mini took 0.73 s instead
    of 0.86 s (batch 64, two cores, jaxlib 0.10.2), and a quarter less when another process was running too.

    Args:
      platform: The devices' platform, such as "cpu"; by default JAX's default backend.

    Returns:
      The options; empty where the platform or the version of XLA has none to set.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if (platform or jax.default_backend()) != "cpu":
        return {}
    try:
        jax.jit(jnp.negative).lower(1.0).compile(compiler_options=options)
    except Exception:  # this version of XLA has no such option
        return {}
    return options


def encoder_options(rows: int) -> dict[str, str]:
    """Returns the `compiler_options` for an encoder of `rows` rows on the default backend.

    The fusions help with a single row: at ViT-B/16 a text took 0.050 s with them and 0.058 s without, in
    bfloat16 0.08 s and 0.13 s; 16 images took 3.3 s and 2.8 s, in bfloat16 4.9 s and 3.8 s (two cores without
    AMX).
    """
    return {} if rows == 1 else compiler_options()
