"""Compiles with Numba, with its on-disk cache where possible.

In a container the package may be read-only and the account may have no home folder. Numba then raises when
the function is decorated; if its cache is full or damaged, it raises at the first call.
"""

import functools
import inspect
import pickle
from collections.abc import Callable

try:
    import numba
except ImportError:
    numba = None


def njit(function: Callable, **options) -> Callable:
    """Compiles a function with `numba.njit(**options)`, cached on disk if possible.

    Without the cache each process compiles the function again, in about a second. Requires Numba.
    """
    if numba is None:
        raise ImportError("Numba is not installed")
    compile_by = numba.njit
    function = inspect.unwrap(function)  # without the type checks that the tests wrap around it
    try:
        cached = compile_by(cache=True, **options)(function)
    except RuntimeError:  # there is no writable folder for the cache
        return compile_by(**options)(function)
    uncached = functools.cache(lambda: compile_by(**options)(function))

    @functools.wraps(function)
    def call(*args):
        try:
            return cached(*args)
        except (OSError, EOFError, pickle.PickleError):
            # The cache raised: it is used before the function starts, and the function raises none of these.
            return uncached()(*args)

    return call
