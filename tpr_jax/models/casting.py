"""Casts frozen weights to the type that the towers compute in. This module does not import Flax."""

import jax
import jax.numpy as jnp


def inference_variables(variables: dict, dtype: str) -> dict:
    """Returns the encoders' variables: CLIP's own weights in the computation's dtype, parts unchanged."""
    return {**variables, "params": cast_frozen(variables["params"], dtype)}


def cast_frozen(params: dict, dtype: str) -> dict:
    """Casts frozen weights to the computation's dtype, except for LayerNorm's, which computes in float32."""

    def cast(path, leaf):
        layer = str(path[-2].key) if len(path) > 1 else ""
        return jnp.asarray(leaf, jnp.float32 if layer.startswith("ln_") else jnp.dtype(dtype))

    return jax.tree_util.tree_map_with_path(cast, params)
