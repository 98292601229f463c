"""Text-based person retrieval with parameter-efficient CLIP, in JAX and Flax."""

__version__ = "0.1.0"
