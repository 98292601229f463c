"""Reads what the system says about this machine's CPU."""

import functools
from pathlib import Path

CPUINFO = "/proc/cpuinfo"


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
def has_bfloat16_matrix_unit(cpuinfo: str = CPUINFO) -> bool:
    """Returns whether this machine's CPU has AMX for bfloat16; False where the system does not say."""
    return "amx_bf16" in instruction_sets(cpuinfo)
