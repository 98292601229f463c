"""Encoders by `jax.export`: StableHLO that JAX alone runs, whatever its version in the months to come."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from tpr_jax.export.encoders import NAMES, row_specs, with_weights_inside
from tpr_jax.model import Model

SUFFIX = ".jaxexport"


def write(model: Model, folder: Path, dtype: str, platforms: tuple[str, ...]) -> None:
    """Writes `encode_image.jaxexport` and `encode_text.jaxexport`, weights inside, for any batch size.

    Lowering needs none of the platforms' devices here.
    """
    specs = row_specs(model)
    for name, function in with_weights_inside(model, dtype).items():
        shape, kind = specs[name]
        (b,) = jax.export.symbolic_shape("b")
        rows = jax.ShapeDtypeStruct((b, *shape), kind)
        exported = jax.export.export(jax.jit(function), platforms=platforms)(rows)
        (folder / (name + SUFFIX)).write_bytes(exported.serialize())


def read(folder: Path) -> dict[str, Callable]:
    """The encoders of a folder, on a device that they are for."""
    found = {name: jax.export.deserialize((folder / (name + SUFFIX)).read_bytes()) for name in NAMES}
    return {n: lambda rows, e=exported: np.asarray(e.call(rows)) for n, exported in found.items()}
