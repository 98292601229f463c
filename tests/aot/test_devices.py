"""The devices of a topology's name, and the messages for unavailable ones."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tpr_jax.aot import devices
from tpr_jax.errors import UserError


def test_local_devices():
    assert devices.devices("here") == jax.devices()
    assert devices.devices("cpu") == jax.devices("cpu")


def test_virtual_devices_are_requested_before_jax_starts():
    code = "from tpr_jax.aot import devices; import json; print(json.dumps(len(devices.devices('cpu:6'))))"
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert json.loads(done.stdout) == 6


@pytest.mark.parametrize(
    ("name", "told"),
    [("v5e4x4", "did you mean 'v5e:4x4'"), ("heer", "did you mean 'here'"), ("cpu:0", "cpu")],
)
def test_suggests_the_nearest_topology(name, told):
    with pytest.raises(UserError, match=f"--topology {name} is unknown") as error:
        devices.devices(name)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_reports_a_missing_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"libtpu.*requirements-aot\.txt"):
        devices.devices("v5e:4x4")


def test_reports_a_missing_gpu():
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="--topology gpu: there is no such device here"):
        devices.devices("gpu")


NEEDS_LIBTPU = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: the tests of requirements-aot.txt's environment",
)


@NEEDS_LIBTPU
@pytest.mark.parametrize("name", devices.TOPOLOGIES)
def test_slices_by_name(name):
    shape = [int(n) for n in name.partition(":")[2].split("x")]
    count = 1
    for n in shape:
        count *= n
    assert len(devices.devices(name)) == count


@NEEDS_LIBTPU
def test_reports_an_unknown_slice():
    with pytest.raises(UserError, match=r"knows no such slice.*v5e:4x4"):
        devices.devices("v5e:5x7")
