"""Checks that seeds have 32 bits, so that different seeds give different random streams.

JAX's keys keep only the lowest 32 bits of a seed, and NumPy splits a larger one into words of 32 bits, which
would take the place of a stream's epoch or example.
"""

import numbers

from tpr_jax.errors import UserError

LARGEST_SEED = 2**32 - 1


def check_seed(seed: int, name: str = "seed") -> int:
    """Returns the seed.

    Raises:
      UserError: it is not a whole number from 0 to 2^32 - 1; the message calls it `name`.
    """
    is_integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not is_integer or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"{name} {seed} must be a whole number from 0 to {LARGEST_SEED}")
    return seed
