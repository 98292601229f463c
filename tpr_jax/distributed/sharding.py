"""The mesh of devices, and how batches and variables are sharded on it.

The rows of a batch are sharded over all devices. Large weights are sharded over the axis `model`, with their
gradients and moments, and gathered only where they are multiplied (`models/matmul.py`); everything else is
replicated. A step therefore multiplies each row once whatever the mesh, and `model` is the number of shards
of the weights. Tensor parallelism over `model` would move 8 b l d activations per block instead of 24 d^2
weights, with b the rows of all `model` devices together: it pays off below b = 3 d / l, which is a dozen
images for ViT-B/16 at 384 x 128, too few to keep the devices busy.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool

from tpr_jax.errors import UserError

AXES = ("data", "model")
# The weights that `models` gathers by `all_gather_weight`, and the minimum size at which sharding pays off.
SHARDED_LEAVES = ("kernel", "proj", "token_embedding")
MIN_SHARDED_SIZE = 2**16


def make_mesh(data: int = -1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds a mesh with the axes `data` and `model`.

    Args:
      data: the size of the axis `data`; -1 takes all remaining devices.
      model: the size of the axis `model`; -1 takes all remaining devices.
      devices: the devices, by default all.

    Raises:
      UserError: the sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if data == -1 and model == -1:
        raise UserError("mesh.data and mesh.model are both -1: give one of them a number")
    sizes = [count // max(model, 1) if data == -1 else data, count // max(data, 1) if model == -1 else model]
    if min(sizes) < 1 or sizes[0] * sizes[1] != count:
        raise UserError(
            f"mesh.data={data} and mesh.model={model} do not make up the {count} devices here: "
            "their product must be that number (-1 takes all remaining devices)"
        )
    return Mesh(mesh_utils.create_device_mesh(tuple(sizes), devices), AXES)


def leaf_spec(name: str, shape: tuple[int, ...], model: int) -> PartitionSpec:
    """Returns a leaf's spec by its last name: sharded on the longest axis that `model` divides, if any."""
    axes = [i for i, size in enumerate(shape) if size % model == 0]
    if model == 1 or name not in SHARDED_LEAVES or np.prod(shape) < MIN_SHARDED_SIZE or not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*(None,) * longest, "model")


def leaf_shardings(mesh: Mesh, tree):
    """Returns the shardings of a tree of weights, or of an optimizer state, which repeats their names."""

    def leaf_sharding(path, leaf):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        spec = leaf_spec(names[-1] if names else "", np.shape(leaf), mesh.shape["model"])
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def row_sharding(mesh: Mesh, count: int) -> NamedSharding:
    """Returns the sharding of `count` rows over all devices, or over `data` if they do not divide evenly."""
    return NamedSharding(mesh, PartitionSpec("data" if count % mesh.size else AXES))


def padded_size(mesh: Mesh, count: int) -> int:
    """Returns the smallest number of rows, at least `count`, that `row_sharding` can shard."""
    return -(-count // mesh.shape["data"]) * mesh.shape["data"]


def shard_params(mesh: Mesh, tree):
    """Puts weights or a state, which every process holds in full, onto the mesh by `leaf_shardings`."""
    return jax.tree.map(_put, tree, leaf_shardings(mesh, tree))


def replicate(mesh: Mesh, tree):
    """Copies a tree, which every process holds in full, onto every device of the mesh."""
    return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, PartitionSpec())), tree)


def _put(leaf, sharding: NamedSharding):
    is_local = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    if not is_local or sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    # Not `device_put`, which would send every leaf between the processes to check that all agree.
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def local_row_mask(mesh: Mesh, count: int) -> Bool[np.ndarray, " count"]:
    """Returns which of `count` rows, sharded by `row_sharding`, are on devices of this process."""
    mask = np.zeros(count, bool)
    for index in row_sharding(mesh, count).addressable_devices_indices_map((count,)).values():
        if index is not None:
            mask[index] = True
    return mask


def process_shard(mesh: Mesh, count: int) -> tuple[int, int]:
    """Returns (index, number) of this process's shard of `count` rows; processes may hold the same shard."""
    starts: dict[int, set[int]] = {}
    for device, (rows,) in row_sharding(mesh, count).devices_indices_map((count,)).items():
        starts.setdefault(device.process_index, set()).add(rows.start or 0)
    shards = sorted({tuple(sorted(rows)) for rows in starts.values()})
    return shards.index(tuple(sorted(starts[jax.process_index()]))), len(shards)


def shard_batch(mesh: Mesh, batch, count: int | None = None):
    """Shards the first axis of each array of a batch over the devices.

    Args:
      mesh: the mesh.
      batch: the arrays, the same in every process, or this process's `process_shard` of them.
      count: the total number of rows, where the arrays are a process's shard.
    """

    def put(rows):
        if count is None or count == len(rows):
            return _put(rows, row_sharding(mesh, len(rows)))
        return jax.make_array_from_process_local_data(
            row_sharding(mesh, count), rows, (count, *rows.shape[1:])
        )

    return jax.tree.map(put, batch)


def split_rows(x: jax.Array) -> jax.Array:
    """Shards rows inside jit as `row_sharding` does; a no-op without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec("data" if len(x) % mesh.size else AXES))


def split_microbatches(mesh: Mesh, batch, count: int):
    """Splits the rows [b, ...] of a batch inside jit into [count, b / count, ...], without communication."""

    def split(rows):
        size = len(rows) // count
        spec = row_sharding(mesh, size).spec
        devices = mesh.shape["data"] if size % mesh.size else mesh.size
        rows = rows.reshape(devices, count, size // devices, *rows.shape[1:]).swapaxes(0, 1)
        rows = rows.reshape(count, size, *rows.shape[3:])
        return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec(None, *spec)))

    return jax.tree.map(split, batch)
