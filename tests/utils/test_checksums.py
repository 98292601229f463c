"""Checksums: against the formula in NumPy, against every single flipped bit, and over shardings."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpr_jax.utils import checksums


def by_the_formula(array: np.ndarray) -> int:
    """Computes the docstring's formula with Python's integers."""
    raw, size = array.tobytes(), array.dtype.itemsize
    width = min(size, 4)
    words = [int.from_bytes(raw[i : i + width], "little") for i in range(0, len(raw), width)]
    total = 0
    for i, word in enumerate(words):
        mixed = (i + 1) * 0x9E3779B1 % 2**32
        mixed = (mixed ^ (mixed >> 15)) * 0x85EBCA77 % 2**32
        total += word * ((mixed ^ (mixed >> 13)) | 1)
    return total % 2**32


ARRAYS = [
    np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32),
    np.random.default_rng(1).normal(size=(7,)).astype(jnp.bfloat16),
    np.arange(-6, 6, dtype=np.int32).reshape(4, 3),
    np.array(7, np.int32),
    np.array([True, False, True]),
    np.array([1, 255], np.uint8),
    np.zeros((0, 4), np.float32),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_checksum_follows_the_formula(array):
    assert int(checksums.array_checksum(jnp.asarray(array))) == by_the_formula(array)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 29), st.integers(0, 31))
def test_each_flipped_bit_changes_the_sum(element, bit):
    array = ARRAYS[0].copy()
    before = int(checksums.array_checksum(array))
    array.reshape(-1).view(np.uint32)[element] ^= np.uint32(1) << np.uint32(bit)
    assert int(checksums.array_checksum(array)) != before


def test_swapped_elements_change_the_sum():
    array = np.arange(12, dtype=np.float32)
    swapped = array.copy()
    swapped[[3, 8]] = swapped[[8, 3]]
    assert checksums.array_checksum(array) != checksums.array_checksum(swapped)


def test_sharding_does_not_change_the_sum():
    """Eight devices of one process represent any mesh, because the sums are of integers."""
    import subprocess
    import sys

    from tests.conftest import ROOT, forced_devices

    script = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from tpr_jax.utils import checksums
array = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
mesh = jax.make_mesh((4, 2), ("data", "model"))
for spec in (P(), P("data"), P("data", "model"), P(None, ("data", "model"))):
    print(checksums.tree_checksums({"a": jax.device_put(array, NamedSharding(mesh, spec))}))
"""
    environment = forced_devices(8) | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    array = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    assert said.stdout.splitlines() == [str({"['a']": by_the_formula(array)})] * 4, said.stderr


def test_check_arrays_names_what_differs():
    tree = {"a": jnp.ones(3), "b": (jnp.zeros(2), jnp.asarray(4))}
    saved = checksums.tree_checksums(tree)
    assert sorted(saved) == ["['a']", "['b'][0]", "['b'][1]"]
    checksums.check_arrays(tree, saved)
    with pytest.raises(ValueError, match=r"the array \['b'\]\[0\] differs from what was saved"):
        checksums.check_arrays({**tree, "b": (jnp.ones(2), jnp.asarray(4))}, saved)
    with pytest.raises(ValueError, match=r"the array \['a'\] differs from what was saved \(and 1 more\)"):
        checksums.check_arrays({"a": jnp.zeros(3), "b": (jnp.ones(2), jnp.asarray(4))}, saved)


def test_detects_changed_metadata():
    notes = {"seconds": 1.5, "zero_shot": None, "skipped": {"a.jpg": "bad"}}
    saved = checksums.with_checksums(notes, {"x": 3})
    assert checksums.split_checksums(saved) == (notes, {"x": 3})
    assert checksums.split_checksums(notes) == (notes, None)  # of an older version
    for changed in (saved | {"seconds": 2.5}, saved | {"checksums": 3}, saved | {"more": 1}):
        with pytest.raises(ValueError, match="notes differ from what was saved"):
            checksums.split_checksums(changed)


def test_digest_of_named_arrays():
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.float32(1)}
    digest = checksums.named_digest(arrays)
    assert digest == checksums.named_digest(dict(reversed(arrays.items())))
    for other in (
        {"b": arrays["b"].reshape(3, 2), "a": arrays["a"]},
        {"c": arrays["b"], "a": arrays["a"]},
        {"b": arrays["b"].astype(np.float64), "a": arrays["a"]},
        {"b": np.nextafter(arrays["b"], np.float32(9)), "a": arrays["a"]},
    ):
        assert checksums.named_digest(other) != digest
