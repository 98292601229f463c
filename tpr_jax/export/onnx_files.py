"""Encoders as ONNX, by jax2onnx: optional, see requirements-onnx.txt."""

import logging
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.export.encoders import INPUTS, NAMES, row_specs, with_weights_inside
from tpr_jax.model import Model

SUFFIX = ".onnx"
OUTPUT = "features"


def converter() -> tuple:
    """(the modules jax2onnx, onnxruntime).

    Raises:
      UserError: they are not installed.
    """
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"--format onnx needs {error.name}, in an environment of its own: "
            "pip install -r requirements-onnx.txt"
        ) from error
    return jax2onnx, onnxruntime


def write(model: Model, folder: Path, dtype: str, platforms: tuple[str, ...]) -> None:
    """Writes `encode_image.onnx` and `encode_text.onnx`, weights inside, for any batch size.

    An ONNX file is for no platform in particular: `platforms` says nothing here.

    Raises:
      UserError: the packages are missing, or the type is one that ONNX Runtime's CPU lacks.
    """
    jax2onnx, _ = converter()
    if dtype != "float32":
        raise UserError(f"--dtype {dtype}: --format onnx is float32 only; export it by itself")
    specs = row_specs(model)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # a line for each shape that it does not know
    for name, function in with_weights_inside(model, dtype).items():
        shape, kind = specs[name]
        jax2onnx.to_onnx(
            function,
            [jax.ShapeDtypeStruct(("b", *shape), kind)],
            return_mode="file",
            output_path=str(folder / (name + SUFFIX)),
            input_names=[INPUTS[name]],
            output_names=[OUTPUT],
        )


def read(folder: Path) -> dict[str, Callable]:
    """The encoders of a folder, by ONNX Runtime on the CPU."""
    _, runtime = converter()

    def session(name: str) -> Callable:
        made = runtime.InferenceSession(str(folder / (name + SUFFIX)), providers=["CPUExecutionProvider"])
        return lambda rows: np.asarray(made.run(None, {INPUTS[name]: rows})[0])

    return {name: session(name) for name in NAMES}
