"""The mesh, and that eight devices compute what one does: in one process of eight forced CPU devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.sharding import make_mesh

SCRIPT = """
import dataclasses, json
import jax, numpy as np, optax, tiny_clip as tiny
from jax.sharding import Mesh
from tpr_jax import optim, sharding, step
from tpr_jax.errors import UserError
from tpr_jax.models import clip
from tpr_jax.models.methods import dm_adapter

method = dm_adapter(**tiny.DM_SETTINGS)
model = clip.build(dataclasses.replace(tiny.CONFIG, text_layers=1), method)
variables = tiny.random_like(jax.eval_shape(model["init"], jax.random.key(0)), seed=0)
trainable, frozen = optim.split_collections(variables, method.trainable)
optimiser = optax.sgd(0.01, momentum=0.9)
flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).tolist()
found = {"devices": len(jax.devices()), "losses": {}, "trained": {}, "sizes": {}, "refused": {}}
one = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))
for name, mesh in {"one": one, "eight": sharding.make_mesh()}.items():
    update = step.jit_train_step(model, optimiser, {"sdm": 1.0, "balance": 0.5}, 50.0, mesh)
    # A copy each: a step takes its state's memory.
    state = step.init_state(optimiser, jax.tree.map(np.copy, trainable))
    state, held = sharding.everywhere(mesh, state), sharding.everywhere(mesh, frozen)
    losses = []
    for seed in range(2):
        batch = sharding.by_row(mesh, tiny.batch(16, seed))
        state, metrics = update(state, held, batch)
        losses.append(float(metrics["loss"]))
    found["losses"][name] = losses
    found["trained"][name] = flat(state["trainable"])
found["start"] = flat(trainable)
found["rows"] = [list(s.data.shape) for s in batch["image"].addressable_shards]
found["copies"] = [s.data.shape == x.shape for x in jax.tree.leaves(held)[:1] for s in x.addressable_shards]
for sizes in [(-1, 1), (4, 2), (-1, 4), (2, -1)]:
    found["sizes"][str(sizes)] = dict(sharding.make_mesh(*sizes).shape)
for sizes in [(3, -1), (4, 1), (-1, 3), (16, 1), (0, 8), (-1, 0), (-1, -1), (-8, -1)]:
    try:
        sharding.make_mesh(*sizes)
    except UserError as error:
        found["refused"][str(sizes)] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def eight():
    """What the script found."""
    here = Path(__file__).parent
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is all the work here
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_eight_devices_compute_what_one_does(eight):
    """Over the whole batch: a loss of each device's own rows would be another."""
    assert eight["devices"] == 8
    np.testing.assert_allclose(eight["losses"]["eight"], eight["losses"]["one"], rtol=1e-5)
    start, one, many = (
        np.array(x) for x in (eight["start"], eight["trained"]["one"], eight["trained"]["eight"])
    )
    assert np.linalg.norm(one - start) > 1e-3
    assert np.linalg.norm(many - one) < 1e-4 * np.linalg.norm(one - start)


def test_rows_are_split_and_weights_copied(eight):
    assert eight["rows"] == [[2, 12, 8, 3]] * 8
    assert eight["copies"] == [True] * 8


def test_sizes_of_the_mesh(eight):
    assert eight["sizes"] == {
        "(-1, 1)": {"data": 8, "model": 1},
        "(4, 2)": {"data": 4, "model": 2},
        "(-1, 4)": {"data": 2, "model": 4},
        "(2, -1)": {"data": 2, "model": 4},
    }


def test_sizes_that_do_not_fit_are_refused(eight):
    assert len(eight["refused"]) == 8
    for sizes, message in eight["refused"].items():
        assert "mesh.data" in message and "mesh.model" in message, sizes
    assert "8 devices" in eight["refused"]["(3, -1)"]


def test_a_mesh_too_large_for_this_machine():
    with pytest.raises(UserError, match="mesh.data=4096"):
        make_mesh(4096, 1)
