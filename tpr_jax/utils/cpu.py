"""Reads what the system says about this machine's CPU."""

import functools
from pathlib import Path

CPUINFO = "/proc/cpuinfo"
BFLOAT16_PRODUCTS = {"amx_bf16", "avx512_bf16"}  # the instruction sets that have them


def fields(cpuinfo: str = CPUINFO) -> dict[str, list[str]]:
    """Returns the distinct values of each field over all processors; {} where the system is not Linux."""
    try:
        lines = Path(cpuinfo).read_text().splitlines()
    except OSError:
        return {}
    values: dict[str, dict[str, None]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            values.setdefault(name.strip(), {})[value.strip()] = None
    return {name: list(distinct) for name, distinct in values.items()}


def instruction_sets(cpuinfo: str = CPUINFO) -> set[str]:
    """Returns the instruction sets that all processors have, such as "amx_bf16"."""
    found = fields(cpuinfo)
    values = [set(value.split()) for name in ("flags", "Features") for value in found.get(name, [])]
    return set.intersection(*values) if values else set()


@functools.cache
def has_bfloat16_products(cpuinfo: str = CPUINFO) -> bool:
    """Returns whether this machine's CPU multiplies bfloat16 itself; False where the system does not say.

    With AMX (Xeon, from Sapphire Rapids on) or AVX512_BF16 (EPYC and Ryzen from Zen 4 on, and others).
    """
    return not BFLOAT16_PRODUCTS.isdisjoint(instruction_sets(cpuinfo))
