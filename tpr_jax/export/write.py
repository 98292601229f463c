"""An export: the folder with all that is asked for, each file loaded again and compared with the model."""

import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from tpr_jax.export import jax_files, onnx_files, saved_model
from tpr_jax.export.describe import describe, readme
from tpr_jax.export.encoders import error, samples, wanted
from tpr_jax.export.folder import ABOUT, sizes, whole_folder
from tpr_jax.export.tokenizer_file import whole_tokenizer
from tpr_jax.model import Model
from tpr_jax.utils.files import write_json

WRITERS = {"jax": jax_files, "saved_model": saved_model, "onnx": onnx_files}
BY = {"jax": ("jax",), "saved_model": ("jax", "tensorflow"), "onnx": ("jax", "jax2onnx", "onnx")}


def write_export(
    model: Model,
    folder: str | os.PathLike,
    *,
    formats: Sequence[str] = ("jax",),
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    dtype: str = "float32",
    say: Callable[[str], object] = lambda line: None,
) -> dict:
    """Writes both encoders of the merged model, and returns what export.json says of them.

    Each format's `error` is, of each encoder, the norm of the difference from the float32 model's features on
    a few random rows, which have length 1; None where none of the platforms is here.

    Raises:
      UserError: the folder holds something else or cannot be written, a package is missing, or the model is
        too large.
    """
    if "saved_model" in formats:
        saved_model.tensorflow()
    if "onnx" in formats:
        onnx_files.converter()
    model = model.merge()
    rows = samples(model)
    right = wanted(model, rows)
    with whole_folder(folder) as new:
        about: dict[str, dict] = {}
        for name in formats:
            (new / name).mkdir()
            WRITERS[name].write(model, new / name, dtype, tuple(platforms))
            read = WRITERS[name].read(new / name) if name == "onnx" or "cpu" in platforms else None
            errors = {n: error(read[n](rows[n]), right[n]) for n in rows} if read else None
            about[name] = {
                **({"platforms": list(platforms)} if name != "onnx" else {}),
                "versions": {package: _version(package) for package in BY[name]},
                "error": errors,
            }
            say(f"{name}: {_total(new / name) / 1e6:.1f} MB, {_words(errors)}")
        if model.tokenizer is not None:
            whole_tokenizer(model.tokenizer).save(str(new / "tokenizer.json"))
        description = describe(model, dtype, about)
        (new / "README.md").write_text(readme(description), encoding="utf-8", errors="backslashreplace")
        description["bytes"] = sizes(new)
        write_json(new / ABOUT, description)
    say(f"written to {folder}: {', '.join([*formats, ABOUT, 'README.md'])}")
    return description


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _total(folder: Path) -> int:
    return sum(sizes(folder).values())


def _words(errors: dict | None) -> str:
    if errors is None:
        return "not tried: it is for devices that are not here"
    return "difference from the model: " + ", ".join(f"{name} {e:.1e}" for name, e in errors.items())
