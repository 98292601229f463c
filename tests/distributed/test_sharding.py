"""The mesh and its shardings; eight devices compute the same as one (`mesh_script.py`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from tests.conftest import forced_devices, made_once
from tpr_jax import losses
from tpr_jax.distributed import sharding
from tpr_jax.errors import UserError
from tpr_jax.models.methods import METHODS

HERE = Path(__file__).parents[1]
# One axis, and both axes with microbatches. A step is traced for each mesh, which takes most of the time, so
# that only the papers' methods, and the one with all losses, run on the other meshes too.
MESHES, OTHER_MESHES = ["8x1", "2x4+2"], ["4x2", "1x8"]
MORE = ("dm_adapter", "up_person", "cskt", "irra")
TRAINED = {name: MESHES + OTHER_MESHES * (name in MORE) for name in METHODS if name != "zero_shot"}
SIZES = """
import json
from tpr_jax.distributed import sharding
from tpr_jax.errors import UserError

found = {"sizes": {}, "refused": {}}
for sizes in [(-1, 1), (4, 2), (-1, 4), (2, -1)]:
    found["sizes"][str(sizes)] = dict(sharding.make_mesh(*sizes).shape)
for sizes in [(3, -1), (4, 1), (-1, 3), (16, 1), (0, 8), (-1, 0), (-1, -1), (-8, -1)]:
    try:
        sharding.make_mesh(*sizes)
    except UserError as error:
        found["refused"][str(sizes)] = str(error)
mesh = sharding.make_mesh(4, 2)
for rows in (16, 12):
    split = sharding.shard_batch(mesh, __import__("numpy").zeros((rows, 3)))
    found[f"rows of {rows}"] = [list(shard.data.shape) for shard in split.addressable_shards]
print(json.dumps(found))
"""


def eight_devices(*command: str) -> dict:
    """Returns what a script prints on eight virtual CPU devices."""
    environment = forced_devices(8, quick=True)  # compiling dominates here
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def of_script(tmp_path_factory, name: str, *words: str) -> dict:
    """Returns the output of `mesh_script.py`, which runs for minutes, once for all test processes."""

    def make(folder: Path) -> None:
        (folder / "found.json").write_text(json.dumps(eight_devices(str(HERE / "mesh_script.py"), *words)))

    return json.loads((made_once(tmp_path_factory, name, make) / "found.json").read_text())


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """Runs the losses alone, on the meshes that shard weights least and most."""
    return of_script(tmp_path_factory, "losses_on_meshes", "losses", "4x2", "1x8")


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """Runs every method on its meshes."""
    return of_script(tmp_path_factory, "methods_on_meshes", "methods", json.dumps(TRAINED))


def assert_the_same_run(found: dict, label: str) -> None:
    """Checks the losses of five steps to 1e-5, and the parameters to 1e-4 of their change."""
    one, many = found["1x1"], found[label]
    for step, (metrics, expected) in enumerate(zip(many["metrics"], one["metrics"], strict=True)):
        for key, value in expected.items():
            np.testing.assert_allclose(metrics[key], value, rtol=1e-5, err_msg=f"{label} {step} {key}")
    assert len(one["metrics"]) == 5 and one["metrics"][-1]["bad_step"] == -1
    assert many["error"] < 1e-4
    assert many["compiled"] == 1
    model = int(label[2])
    assert many["shares"] == ([1 / model] if model > 1 else [])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "label"), [(name, label) for name in TRAINED for label in TRAINED[name]])
def test_every_method_trains_the_same_on_its_meshes(every, name, label):
    """The losses must cover the whole batch, not each device's rows; IRRA uses all losses."""
    assert_the_same_run(every[name], label)
    if name == "dm_adapter" and label in ("4x2", "1x8"):
        assert every[name][label]["split"] > 10
    if name == "irra":
        assert set(losses.NAMES) - {"balance"} < set(every[name][label]["metrics"][0])


@pytest.mark.parametrize("name", losses.BY_NAME)
def test_losses_and_gradients_are_those_of_the_whole_batch(some, name):
    assert set(some["losses"]) == set(losses.BY_NAME)
    for label in ("4x2", "1x8"):
        assert some["losses"][name][label] < 1e-5


@pytest.mark.parametrize("name", [*(name for name in losses.BY_NAME if name != "id"), "in parts"])
def test_no_device_holds_all_pairs_of_a_batch(some, name):
    """Each device holds an eighth of the pairs."""
    one, eight = some["memory"]["1x1"][name], some["memory"]["4x2"][name]
    assert one["all_pairs"] and not eight["all_pairs"]
    assert eight["bytes"] < one["bytes"] / 4


@pytest.mark.parametrize(
    ("name", "shape", "model", "spec"),
    [
        ("kernel", (768, 3072), 4, PartitionSpec(None, "model")),
        ("kernel", (3072, 768), 4, PartitionSpec("model")),
        ("kernel", (768, 6, 96), 8, PartitionSpec("model")),
        ("token_embedding", (49408, 512), 16, PartitionSpec("model")),
        ("token_embedding", (49409, 512), 16, PartitionSpec(None, "model")),
        ("kernel", (999, 777), 4, PartitionSpec()),  # nothing divides
        ("kernel", (255, 256), 4, PartitionSpec()),  # too small
        ("positional_embedding", (193, 768), 4, PartitionSpec()),
        ("kernel", (768, 3072), 1, PartitionSpec()),
    ],
)
def test_leaf_spec(name, shape, model, spec):
    assert sharding.leaf_spec(name, shape, model) == spec


def test_optimizer_moments_are_sharded_like_their_weights():
    """Their paths end like those of the weights, whatever optax puts before."""
    import optax

    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), sharding.AXES)
    state = optax.adam(1.0).init({"params": {"mlp": {"kernel": np.zeros((300, 400), np.float32)}}})
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr(sharding, "leaf_spec", lambda *told: seen.append(told) or PartitionSpec())
        sharding.leaf_shardings(mesh, state)
    assert seen.count(("kernel", (300, 400), 1)) == 2 and ("", (), 1) in seen


@pytest.fixture(scope="module")
def eight():
    return eight_devices("-c", SIZES)


def test_rows_are_sharded_over_all_devices_or_over_data(eight):
    assert eight["rows of 16"] == [[2, 3]] * 8
    assert eight["rows of 12"] == [[3, 3]] * 8


def test_mesh_sizes(eight):
    assert eight["sizes"] == {
        "(-1, 1)": {"data": 8, "model": 1},
        "(4, 2)": {"data": 4, "model": 2},
        "(-1, 4)": {"data": 2, "model": 4},
        "(2, -1)": {"data": 2, "model": 4},
    }


def test_rejects_mesh_sizes_that_do_not_fit(eight):
    assert len(eight["refused"]) == 8
    for sizes, message in eight["refused"].items():
        assert "mesh.data" in message and "mesh.model" in message, sizes
    assert "8 devices" in eight["refused"]["(3, -1)"]


REFUSED = """
import json, sys
from tpr_jax.config.flags import parse_flags
from tpr_jax.data import leaks
from tpr_jax.data import splits as splits_lib
from tpr_jax.errors import UserError
from tpr_jax.train.setup import prepare

load_splits, steps = splits_lib.load_splits, []

def load(*args, **settings):
    steps.append("read")
    return load_splits(*args, **settings)

def compare(splits):
    steps.append("compared")
    raise UserError("nothing is wrong")

splits_lib.load_splits, leaks.find_in_splits = load, compare
found = {}
for flags in json.loads(sys.argv[2]):
    steps.clear()
    config = parse_flags(["main", "--config", sys.argv[1], "--workdir", "unused", *flags])[0]
    try:
        prepare(config)
    except UserError as error:
        found[" ".join(flags)] = [str(error), list(steps)]
print(json.dumps(found))
"""


def test_rejects_a_misfit_before_reading_data(tiny):
    """Checks the mesh before it reads the splits, and the backbone before it looks for leaks."""
    compared = ["read", "compared"]
    cases = {
        ("--config.batch_size=12",): (
            "config.batch_size=12 must be a multiple of the 8 devices of the data axis",
            [],
        ),
        # The batches of an evaluation are padded: none has to fit.
        ("--config.eval_batch_size=12",): ("nothing is wrong", compared),
        ("--config.mesh.data=3",): ("mesh.data=3 and mesh.model=1 do not make up the 8 devices here", []),
        ("--config.batch_size=24", "--config.accumulate=2"): (
            "8 devices of the data axis times the 2 microbatches of",
            [],
        ),
        ("--config.method.reduction=100",): ("reduction=100", ["read"]),
        (): ("nothing is wrong", compared),
    }
    found = eight_devices("-c", REFUSED, tiny["config"], json.dumps([list(flags) for flags in cases]))
    for flags, (message, steps) in cases.items():
        error, steps_taken = found[" ".join(flags)]
        assert message in error and "\n" not in error and steps_taken == steps, flags


def test_padded_size_is_divisible_by_the_data_axis():
    mesh = lambda data, model: Mesh(np.empty((data, model), object), sharding.AXES)  # noqa: E731
    for data, count, expected in [(1, 7, 7), (3, 8, 9), (3, 9, 9), (4, 1, 4), (8, 17, 24)]:
        assert sharding.padded_size(mesh(data, 2), count) == expected


def test_rejects_a_mesh_too_large_for_this_machine():
    with pytest.raises(UserError, match=r"mesh\.data=4096"):
        sharding.make_mesh(4096, 1)
