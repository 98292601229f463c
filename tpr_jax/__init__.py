"""Text-based person retrieval with parameter-efficient CLIP, in JAX and Flax."""

from tpr_jax.cli import start

__version__ = "0.1.0"

if start.IS_COMMAND:
    start.begin()


def __getattr__(name: str):
    # Imported lazily: JAX and Flax take seconds to import.
    if name == "from_pretrained":
        from tpr_jax.model import from_pretrained

        return from_pretrained
    raise AttributeError(f"module 'tpr_jax' has no attribute {name!r}")
