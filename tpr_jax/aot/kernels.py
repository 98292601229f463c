"""Counts the kernels that a compiled program starts on a GPU, where each costs some microseconds."""

from tpr_jax.aot.hlo import computations, unfused
from tpr_jax.aot.traffic import is_free


def count(text: str) -> int:
    """Returns the number of kernels in one run of the program; each iteration of a loop counts."""
    parsed, entry = computations(text)
    return sum(
        # What an "async-start" calls counts by itself.
        times * sum(not is_free(i.opcode) and i.opcode != "async-start" for i in parsed[name])
        for name, times in unfused(parsed, entry).items()
    )
