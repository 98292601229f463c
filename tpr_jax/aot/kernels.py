"""Counts the kernels that a compiled program starts on a GPU, where each costs some microseconds."""

from tpr_jax.aot.hlo import computations, unfused
from tpr_jax.aot.traffic import FREE


def count(text: str) -> int:
    """Returns the number of kernels in one run of the program; each iteration of a loop counts."""
    parsed, entry = computations(text)
    return sum(
        times * sum(_starts_kernel(i.opcode) for i in parsed[name])
        for name, times in unfused(parsed, entry).items()
    )


def _starts_kernel(opcode: str) -> bool:
    # What an "async-start" calls counts by itself.
    return opcode not in (*FREE, "async-start") and not opcode.endswith(("-done", "-update"))
