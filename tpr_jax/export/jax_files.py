"""Writes and reads encoders by `jax.export`: StableHLO that JAX runs, with its compatibility guarantee."""

import re
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export  # JAX before 0.8 has no attribute of that name by itself

from tpr_jax.errors import UserError
from tpr_jax.export.encoders import NAMES, encoders_with_weights, row_specs
from tpr_jax.export.folder import read_description
from tpr_jax.model import Model
from tpr_jax.models.matmul import tracing_for

SUFFIX = ".jaxexport"


def write(model: Model, folder: Path, dtype: str, platforms: tuple[str, ...]) -> None:
    """Writes `encode_image.jaxexport` and `encode_text.jaxexport` with weights, for any batch size.

    Lowering does not need devices of the platforms.
    """
    specs = row_specs(model)
    for name, function in encoders_with_weights(model, dtype).items():
        shape, kind = specs[name]
        (b,) = export.symbolic_shape("b")
        rows = jax.ShapeDtypeStruct((b, *shape), kind)
        with tracing_for(platforms):
            exported = export.export(jax.jit(function), platforms=platforms)(rows)
        (folder / (name + SUFFIX)).write_bytes(exported.serialize())


def read(folder: Path) -> dict[str, Callable]:
    """Loads the encoders of a folder.

    Raises:
      UserError: a file is missing, damaged, for other platforms, or of a version that this JAX cannot read.
        JAX looks at the program only when an encoder is called for the first time.
    """
    return {name: _encoder(folder / (name + SUFFIX)) for name in NAMES}


def _encoder(path: Path) -> Callable:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): export the model again") from error
    try:
        exported = export.deserialize(data)  # ty: ignore[invalid-argument-type] (bytes work as well)
    except Exception as error:  # flatbuffers of another layout may raise anything
        raise UserError(unreadable_message(path, error)) from error
    if jax.default_backend() not in (name.replace("cuda", "gpu") for name in exported.platforms):
        backend = jax.default_backend()
        raise UserError(
            f"{path}: is for {', '.join(exported.platforms)}, and JAX computes on {backend} here: export the "
            "model again with --platforms"
        )
    called = False

    def call(rows: np.ndarray) -> np.ndarray:
        nonlocal called
        try:
            feats = np.asarray(exported.call(rows))
        except Exception as error:
            shapes = [exported.in_avals[0].shape[1:], exported.in_avals[0].dtype]
            if called or [np.shape(rows)[1:], np.asarray(rows).dtype] != shapes:
                raise
            raise UserError(unreadable_message(path, error)) from error
        called = True
        return feats

    return call


def unreadable_message(path: Path, error: Exception) -> str:
    """Returns the error message for a file that JAX cannot read: too old, too new, or damaged."""
    why = " ".join(str(error).split())[:160] or type(error).__name__
    remedy = "export the model again: python -m tpr_jax.export"
    description = read_description(path.parent.parent)
    made_on = description.get("made_on", "an unknown day")
    version = description.get("formats", {}).get("jax", {}).get("versions", {}).get("jax")
    if version in (None, jax.__version__):
        return f"{path}: JAX {jax.__version__} cannot read it ({why}): it may be damaged; {remedy}"
    made = f"made on {made_on} by JAX {version}, which JAX {jax.__version__} cannot read ({why})"
    if _numbers(version) > _numbers(jax.__version__):
        return f"{path}: {made}: install jax>={version}, or {remedy}"
    return (
        f"{path}: too old: {made}; JAX reads those of the last six months: {remedy}, "
        f"or install jax=={version}"
    )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
