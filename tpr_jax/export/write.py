"""Writes an export, loads each file again and compares it with the model."""

import os
from collections.abc import Callable, Sequence
from importlib import metadata

from tpr_jax.export import jax_files, onnx_files, saved_model
from tpr_jax.export.choices import DTYPES, FORMATS, PLATFORMS
from tpr_jax.export.describe import describe, readme
from tpr_jax.export.encoders import expected_features, relative_error, sample_inputs
from tpr_jax.export.folder import DESCRIPTION, atomic_folder, file_sizes
from tpr_jax.export.tokenizer_file import standalone_tokenizer
from tpr_jax.model import Model
from tpr_jax.utils.files import write_json
from tpr_jax.weights import arguments

WRITERS = {"jax": jax_files, "saved_model": saved_model, "onnx": onnx_files}
PACKAGES = {"jax": ("jax",), "saved_model": ("jax", "tensorflow"), "onnx": ("jax", "jax2onnx", "onnx")}


def write_export(
    model: Model,
    folder: str | os.PathLike,
    *,
    formats: Sequence[str] = ("jax",),
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    dtype: str = "float32",
    log: Callable[[str], object] = lambda line: None,
) -> dict:
    """Writes both encoders of the merged model and returns the contents of export.json.

    The `error` of each format is that of each encoder against the float32 model on a few random rows, or None
    if the format does not run on the CPU.

    Args:
      model: the model to export.
      folder: a new or empty folder, or that of an older export.
      formats: "jax", "saved_model" or "onnx".
      platforms: "cpu", "cuda" or "tpu", to lower for.
      dtype: the type that the encoders compute in.
      log: receives lines on what was written.

    Raises:
      UserError: an argument is invalid, the folder holds other files or cannot be written, a package is
        missing, or the model is too large.
    """
    arguments.check_type("model", model, Model, "a Model, as from_pretrained returns it")
    arguments.check_path("folder", folder)
    formats = arguments.check_choices("formats", formats, FORMATS)
    platforms = arguments.check_choices("platforms", platforms, PLATFORMS)
    dtype = arguments.check_dtype(dtype, DTYPES)
    if "saved_model" in formats:
        saved_model.tensorflow()
    if "onnx" in formats:
        onnx_files.converter()
    model = model.merge()
    rows = sample_inputs(model)
    expected = expected_features(model, rows)
    with atomic_folder(folder) as new:
        details: dict[str, dict] = {}
        for name in formats:
            (new / name).mkdir()
            WRITERS[name].write(model, new / name, dtype, platforms)
            read = WRITERS[name].read(new / name) if name == "onnx" or "cpu" in platforms else None
            errors = {n: relative_error(read[n](rows[n]), expected[n]) for n in rows} if read else None
            details[name] = {
                **({"platforms": list(platforms)} if name != "onnx" else {}),
                "versions": {package: _version(package) for package in PACKAGES[name]},
                "error": errors,
            }
            log(f"{name}: {sum(file_sizes(new / name).values()) / 1e6:.1f} MB, {_format_errors(errors)}")
        if model.tokenizer is not None:
            standalone_tokenizer(model.tokenizer).save(str(new / "tokenizer.json"))
        description = describe(model, dtype, details)
        (new / "README.md").write_text(readme(description), encoding="utf-8", errors="backslashreplace")
        description["bytes"] = file_sizes(new)
        write_json(new / DESCRIPTION, description)
    tokenizer = [] if model.tokenizer is None else ["tokenizer.json"]
    log(f"written to {folder}: {', '.join([*formats, *tokenizer, DESCRIPTION, 'README.md'])}")
    return description


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _format_errors(errors: dict | None) -> str:
    if errors is None:
        return "not tested: it is for devices that are not available"
    return "difference from the model: " + ", ".join(f"{name} {e:.1e}" for name, e in errors.items())
