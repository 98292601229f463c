"""Compiling with Numba: cached on disk where a folder can be written, and without the cache elsewhere.

In a container the package may be read-only and the account without a home. Numba then raises where the
function is decorated; where its cache is full or damaged, it raises at the first call.
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
    """Compiles a function as `numba.njit` does with these options, if possible with its cache.

    Without the cache each process compiles it anew, in a second or so. Numba has to be installed.
    """
    function = inspect.unwrap(function)  # without the type checks that the tests put around it
    try:
        cached = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(**options)(function)
    uncached = functools.cache(lambda: numba.njit(**options)(function))

    @functools.wraps(function)
    def call(*arguments):
        try:
            return cached(*arguments)
        except (OSError, EOFError, pickle.PickleError):
            # Of the cache, which is read and written before the function begins; that raises none of these.
            return uncached()(*arguments)

    return call
