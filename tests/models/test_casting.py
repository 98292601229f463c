"""Frozen weights in the type that the towers compute in."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import tiny_clip as tiny
from tests.leaves import clip_leaves
from tests.models.test_clip import variables
from tpr_jax.models import casting


def test_frozen_weights_are_cast_to_the_computation_dtype():
    params = variables()["params"]
    held = jax.tree_util.tree_leaves_with_path(casting.cast_frozen(params, "bfloat16"))
    assert {"/".join(key.key for key in path) for path, _ in held} == set(clip_leaves(tiny.CONFIG))
    for path, leaf in held:
        is_norm = path[-2].key in ("ln_pre", "ln_1", "ln_2", "ln_post", "ln_final")
        assert leaf.dtype == (jnp.float32 if is_norm else jnp.bfloat16), path
    assert {x.dtype for x in jax.tree.leaves(casting.cast_frozen(params, "float32"))} == {np.dtype("float32")}


def test_arrays_on_a_cpu_are_rounded_to_the_nearest_without_compiling(caplog):
    """Of ties, subnormal and infinite numbers, bfloat16 keeps the upper 16 bits, rounded to even."""
    bits = [0x3F808000, 0x3F818000, 0x3F808001, 0x00018000, 0x7F7FFFFF, 0xFF800000, 0x80000001]
    leaf = jnp.asarray(np.array(bits, np.uint32).view(np.float32))
    with jax.log_compiles():
        cast = casting.cast_frozen({"fc": {"kernel": leaf}}, "bfloat16")["fc"]["kernel"]
    assert np.asarray(cast).view(np.uint16).tolist() == [0x3F80, 0x3F82, 0x3F81, 2, 0x7F80, 0xFF80, 0x8000]
    assert cast.sharding == leaf.sharding and caplog.messages == []
