"""Writes and reads encoders as ONNX, by jax2onnx; optional, see requirements-onnx.txt."""

import logging
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.export.encoders import INPUTS, NAMES, encoders_with_weights, row_specs
from tpr_jax.model import Model

SUFFIX = ".onnx"
OUTPUT = "features"


def converter() -> tuple:
    """Imports jax2onnx and onnxruntime.

    Raises:
      UserError: they are not installed.
    """
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"--format onnx needs {error.name}, in a separate environment: "
            "pip install -r requirements-onnx.txt"
        ) from error
    return jax2onnx, onnxruntime


def write(model: Model, folder: Path, dtype: str, platforms: tuple[str, ...]) -> None:
    """Writes `encode_image.onnx` and `encode_text.onnx` with weights, for any batch size.

    `platforms` is ignored: an ONNX file runs on any.

    Raises:
      UserError: the packages are missing, or ONNX Runtime's CPU does not have the type.
    """
    jax2onnx, _ = converter()
    if dtype != "float32":
        raise UserError(f"--dtype {dtype}: --format onnx is float32 only; export it by itself")
    specs = row_specs(model)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it logs a line for each unknown shape
    for name, function in encoders_with_weights(model, dtype).items():
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
    """Loads the encoders of a folder, by ONNX Runtime on the CPU."""
    _, runtime = converter()

    def session(name: str) -> Callable:
        inference_session = runtime.InferenceSession(
            str(folder / (name + SUFFIX)), providers=["CPUExecutionProvider"]
        )
        return lambda rows: np.asarray(inference_session.run(None, {INPUTS[name]: rows})[0])

    return {name: session(name) for name in NAMES}
