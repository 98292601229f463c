"""Casts frozen weights to the type that the towers compute in. This module does not import Flax."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike


def inference_variables(variables: dict, dtype: str) -> dict:
    """Returns the encoders' variables: CLIP's own weights in the computation's dtype, parts unchanged."""
    return {**variables, "params": cast_frozen(variables["params"], dtype)}


def cast_frozen(params: dict, dtype: str) -> dict:
    """Casts frozen weights to the computation's dtype, except for LayerNorm's, which computes in float32."""

    def cast(path, leaf):
        layer = str(path[-2].key) if len(path) > 1 else ""
        wanted = jnp.dtype(jnp.float32 if layer.startswith("ln_") else dtype)
        if leaf.dtype != wanted and _is_on_one_cpu(leaf):
            # NumPy rounds to the same numbers; JAX would trace and compile a program for each shape.
            return jax.device_put(np.asarray(leaf).astype(wanted), leaf.sharding)
        return jnp.asarray(leaf, wanted)

    return jax.tree_util.tree_map_with_path(cast, params)


def _is_on_one_cpu(leaf: ArrayLike) -> bool:
    """Returns whether a leaf is an array in the main memory of this process."""
    if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
        return False
    devices = leaf.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"
