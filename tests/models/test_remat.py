"""Rematerialization changes memory and work, but not the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_clip as tiny
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax import optim
from tpr_jax.models import clip, transformer
from tpr_jax.models.methods import METHODS
from tpr_jax.train import objective


def gradient_function(remat: str):
    """Returns the gradient as a function of all of CLIP's weights, and these weights."""
    method, batch = METHODS["full_finetune"](), tiny.batch(6)
    model = clip.build(tiny.CONFIG, method, remat=remat)
    variables = tiny.random_like(jax.eval_shape(model["init"], jax.random.key(0)), seed=0)
    trainable, frozen = optim.split_model(jax.tree.map(jnp.asarray, variables), method)

    def loss(trainable):
        return objective.objective(model, {"itc": 1.0}, 20.0, trainable, frozen, batch)[0]

    return jax.grad(loss), trainable


@pytest.fixture(scope="module")
def products() -> dict[str, int]:
    """Returns the number of traced products for each remat, before the compiler removes any."""
    found = {}
    for remat in transformer.REMAT:
        gradient, trainable = gradient_function(remat)
        found[remat] = str(jax.make_jaxpr(gradient)(trainable)).count("dot_general[")
    return found


def test_recomputes_blocks_except_for_saved_products(products):
    # In each of the three blocks: qkv, scores, values, out, fc and proj.
    assert products["block"] - products["none"] >= 3 * 5
    assert products["dots"] == products["none"]


def test_gradient_does_not_depend_on_remat():
    gradients = []
    for remat in ("none", "block"):
        gradient, trainable = gradient_function(remat)
        gradients.append(jax.tree.leaves(jax.jit(gradient)(trainable)))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * float(jnp.abs(one).max()))
