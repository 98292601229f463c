"""Imports packages without others that they would import, but can do without."""

import contextlib
import sys
from collections.abc import Generator


@contextlib.contextmanager
def without(package: str) -> Generator[None]:
    """Makes imports of a package fail within the block, as if it were not installed.

    A package that is already imported stays so, and others can be imported normally after the block.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # ty: ignore[invalid-assignment] (None blocks imports)
    try:
        yield
    finally:
        del sys.modules[package]
