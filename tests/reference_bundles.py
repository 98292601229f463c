"""The golden bundles as authors' checkpoints, for the tests of `weights/reference.py`."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

from tests.leaves import shapes_of
from tpr_jax.models.clip import declare
from tpr_jax.weights import reference

GOLDEN = Path(__file__).parent / "golden"
METHODS = ("dm_adapter", "up_person", "cskt", "irra")
BLOCK = "base_model.visual.transformer.resblocks.1."
EXPERT = BLOCK + "feed_forward.experts.2."
each = pytest.mark.parametrize("name", METHODS)


@functools.cache
def stored(name="dm_adapter"):
    """Returns the authors' state dict, the image size and the recipe."""
    with safe_open(GOLDEN / f"{name}.safetensors", "np") as file:
        meta = file.metadata()
        names = [key for key in file.keys() if key.startswith("state/")]  # noqa: SIM118 (not a dict)
        state = {key.removeprefix("state/"): file.get_tensor(key) for key in names}
    return state, tuple(json.loads(meta["size"])["img"]), json.loads(meta["args"])


def read(bundle, changes=None, method="dm_adapter", **settings):
    """Reads the bundle's state with some weights replaced; None removes a weight."""
    state, image_size, _ = bundle
    state = {k: v for k, v in {**state, **(changes or {})}.items() if v is not None}
    return reference.read(state, method=method, image_size=image_size, **settings)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_declared(config, method, heads, variables):
    """Asserts that the tree has exactly the leaves that the model declares."""
    assert shapes_of(variables) == shapes_of(declare(config, method, heads))
