"""Which numbers are seeds: those of 32 bits, so that no two of them start alike.

JAX's keys hold 32 bits of a seed, and of a larger one only its lowest; NumPy cuts a larger one into words of
32 bits, which would stand where a stream's epoch or example is expected.
"""

import numbers

from tpr_jax.errors import UserError

LARGEST_SEED = 2**32 - 1


def check_seed(seed: int, name: str = "seed") -> int:
    """Returns the seed.

    Raises:
      UserError: it is not a whole number from 0 to 2^32 - 1; the message calls it `name`.
    """
    whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"{name} {seed} must be a whole number from 0 to {LARGEST_SEED}")
    return seed
