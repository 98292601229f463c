"""Exports a model's two encoders to files that other programs run without this package."""

from collections.abc import Callable
from pathlib import Path


def read_export(folder: str | Path) -> dict[str, Callable]:
    """Loads the encoders that `--format jax` wrote.

    Returns:
      `encode_image`, which takes uint8 pixels [b, H, W, 3], and `encode_text`, which takes int32 ids [b, L].
      Both return L2-normalized float32 features [b, e].

    Raises:
      UserError: the files are missing, damaged, or too old for this version of JAX. Some of these errors are
        raised when an encoder is called for the first time.
    """
    from tpr_jax.export import jax_files  # imports JAX, which must not happen before the platform is set

    return jax_files.read(Path(folder) / "jax")
