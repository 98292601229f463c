"""Checksums that detect damage to saved arrays and metadata.

A flipped bit in a checkpoint's file is read back as another number: neither Orbax nor safetensors compares
what it reads with what was written.
"""

import hashlib
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

KEY = "checksums"  # in the metadata of a checkpoint, and in the header of a safetensors file


def tree_checksums(tree) -> dict[str, int]:
    """Computes the checksum of each array of a pytree, by its path; see `array_checksum`.

    The checksums do not depend on how the arrays are sharded. All of several processes must call this, and
    all get the same result.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    sums = jax.device_get([array_checksum(leaf) for _, leaf in leaves])
    return {jax.tree_util.keystr(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


@jax.jit
def array_checksum(array: jax.Array) -> jax.Array:
    """Computes a uint32 checksum of an array's bits: the weighted sum of its words, modulo 2^32.

    Element i of the flattened array has the weight 2 h(i) + 1, where h is Knuth's multiplicative hash with
    its halves mixed. An odd weight has an inverse modulo 2^32, so a change to a single element of up to 32
    bits always changes the sum; other damage goes undetected once in about 2^32 times. Integer sums do not
    depend on the order of summation, and so not on the mesh.
    """
    words = _words(array)  # [..., words per element]
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        index = index * np.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    mixed = (index + np.uint32(1)) * np.uint32(0x9E3779B1)
    mixed = (mixed ^ (mixed >> 15)) * np.uint32(0x85EBCA77)
    weight = (mixed ^ (mixed >> 13)) | np.uint32(1)
    return jnp.sum(words * weight, dtype=jnp.uint32)


def _words(array: jax.Array) -> jax.Array:
    """Returns the bits of each element as uint32 words along a new last axis."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)[..., None]
    size = array.dtype.itemsize
    if size > 4:  # its two halves, as uint32
        return jax.lax.bitcast_convert_type(array, jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[size]
    return jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)[..., None]


def json_digest(value: Mapping) -> str:
    """Computes the SHA-256 of a JSON object, regardless of the order of its keys, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def with_checksums(notes: Mapping, arrays: Mapping[str, int] | None = None) -> dict:
    """Returns metadata with the checksums of itself and of the arrays that are saved with it."""
    return {**notes, KEY: {"notes": json_digest(notes), "arrays": dict(arrays or {})}}


def split_checksums(notes: Mapping) -> tuple[dict, dict[str, int] | None]:
    """Splits metadata of `with_checksums`.

    Returns:
      The metadata without checksums, and the checksums of the arrays (None if an older version saved them).

    Raises:
      ValueError: the metadata differs from what was saved.
    """
    plain = {key: value for key, value in notes.items() if key != KEY}
    if KEY not in notes:
        return plain, None
    saved = notes[KEY]
    if not isinstance(saved, dict) or saved.get("notes") != json_digest(plain):
        raise ValueError("its notes differ from what was saved")
    return plain, dict(saved.get("arrays") or {})


def check_arrays(tree, saved: Mapping[str, int]) -> None:
    """Compares arrays with the checksums of what was saved.

    Raises:
      ValueError: some differ from what was saved; the message names the first.
    """
    actual = tree_checksums(tree)
    differing = [path for path in sorted(actual) if actual[path] != saved.get(path)]
    if differing:
        more = f" (and {len(differing) - 1} more)" if differing[1:] else ""
        raise ValueError(f"the array {differing[0]} differs from what was saved{more}")


def named_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Computes one SHA-256 over the names, types, shapes and bytes of arrays, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(json.dumps([name, str(array.dtype), list(np.shape(arrays[name]))]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
