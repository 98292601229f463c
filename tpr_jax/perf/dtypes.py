"""Chooses the type to compute in, where the caller leaves it to the machine."""

import jax

from tpr_jax.perf.xla_options import has_ynnpack
from tpr_jax.utils.cpu import has_bfloat16_products

AUTO = "auto"


def faster() -> str:
    """Returns the type in which encoders are faster on this machine and rank the same.

    That is bfloat16 where the hardware multiplies it: TPUs, GPUs, and CPUs with AMX or AVX512_BF16 if XLA has
    YNNPACK, which uses them. Both towers in bfloat16 and in float32, on MiniPEDES' test split and two cores:

    | CPU                     | model       | R@1             | top 10 in common | CPU time of 1,000 images |
    |-------------------------|-------------|-----------------|------------------|--------------------------|
    | Xeon, AMX               | clip-street | 31.65 and 31.55 | 0.991            | 1.8 and 2.7 s            |
    | Xeon, AMX               | clip-mini   | 9.70 and 9.85   | 0.990            | 1.8 and 2.7 s            |
    | EPYC Zen 5, AVX512_BF16 | clip-street | 31.55 and 31.55 | 0.992            | 1.2 and 1.7 s            |
    | EPYC Zen 5, AVX512_BF16 | clip-mini   | 9.85 and 9.85   | 0.990            | 1.1 and 1.6 s            |

    Several processes with CPUs compute in float32: they must agree, and one may lack the instructions.
    """
    if jax.default_backend() != "cpu":
        return "bfloat16"
    native = jax.process_count() == 1 and has_bfloat16_products() and has_ynnpack()
    return "bfloat16" if native else "float32"


def resolve(dtype: str) -> str:
    """Returns `dtype`, or for "auto" the faster type."""
    return faster() if dtype == AUTO else dtype
