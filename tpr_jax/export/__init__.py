"""Exports a model's two encoders to files that other programs run without this package."""

import os
from collections.abc import Callable
from pathlib import Path


def read_export(folder: str | os.PathLike) -> dict[str, Callable]:
    """Loads the encoders that `--format jax` wrote.

    Returns:
      `encode_image`, which takes uint8 pixels [b, H, W, 3], and `encode_text`, which takes int32 ids [b, L].
      Both return L2-normalized float32 features [b, e].

    Raises:
      UserError: `folder` is not a path, or the files are missing, damaged, or too old for this version of
        JAX. Some of these errors are raised when an encoder is called for the first time.
    """
    # These import JAX, which must not happen before the platform is set.
    from tpr_jax.export import jax_files
    from tpr_jax.weights.arguments import check_path

    check_path("folder", folder)
    return jax_files.read(Path(folder) / "jax")
