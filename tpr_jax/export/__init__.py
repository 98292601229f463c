"""A model's two encoders in files that other programs run, without this project."""

from collections.abc import Callable
from pathlib import Path


def read_export(folder: str | Path) -> dict[str, Callable]:
    """Returns the encoders that `--format jax` wrote: `encode_image` and `encode_text`.

    `encode_image` takes uint8 pixels [b, H, W, 3], `encode_text` int32 ids [b, L]; both give float32 features
    [b, e] of length 1.

    Raises:
      UserError: there are none, they are damaged, or they are too old for this version of JAX; in part only
        when an encoder is called for the first time.
    """
    from tpr_jax.export import jax_files  # imports JAX, before which the command sets its platform

    return jax_files.read(Path(folder) / "jax")
