"""The mesh of devices and what lies where on it.

The rows of a batch are split over all devices. Large weights are split over the axis `model`, with their
gradients and moments, and come together only where they are multiplied (`models/matmul.py`); all else is on
every device. So a step multiplies each row once whatever the mesh, and `model` says in how many pieces the
weights are held. Splitting the products themselves, of experts or wide layers, over `model` would move
8 b l d numbers of activations a block in place of 24 d^2 of weights, b being the rows of `model` devices
together: that pays below b = 3 d / l, a dozen images for ViT-B/16 at 384 x 128, fewer than fill the devices.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool

from tpr_jax.errors import UserError

AXES = ("data", "model")
# Leaves that `models` multiplies or looks up by `whole`; below this size a leaf is not worth a message.
SPLIT = ("kernel", "proj", "token_embedding")
SMALLEST = 2**16


def make_mesh(data: int = -1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of the devices, by default all, with the axes `data` and `model`; -1 takes all that is left."""
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if data == -1 and model == -1:
        raise UserError("mesh.data and mesh.model are both -1: give one of them a number")
    sizes = [count // max(model, 1) if data == -1 else data, count // max(data, 1) if model == -1 else model]
    if min(sizes) < 1 or sizes[0] * sizes[1] != count:
        raise UserError(
            f"mesh.data={data} and mesh.model={model} do not make up the {count} devices here: "
            "their product must be that number (-1 takes all that is left)"
        )
    return Mesh(mesh_utils.create_device_mesh(tuple(sizes), devices), AXES)


def leaf_spec(name: str, shape: tuple[int, ...], model: int) -> PartitionSpec:
    """Where a leaf with this last name is split: its longest axis that the `model` devices divide, if any."""
    axes = [i for i, size in enumerate(shape) if size % model == 0]
    if model == 1 or name not in SPLIT or np.prod(shape) < SMALLEST or not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*(None,) * longest, "model")


def leaf_shardings(mesh: Mesh, tree):
    """Of each leaf of a tree of weights, or of an optimizer's state, which repeats its names."""

    def find(path, leaf):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        spec = leaf_spec(names[-1] if names else "", np.shape(leaf), mesh.shape["model"])
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(find, tree)


def row_sharding(mesh: Mesh, count: int) -> NamedSharding:
    """Splits `count` rows over all devices, or over `data` alone where there are too few for that."""
    return NamedSharding(mesh, PartitionSpec("data" if count % mesh.size else AXES))


def filled_up(mesh: Mesh, count: int) -> int:
    """Returns the least number of rows from `count` on that `row_sharding` can split."""
    return -(-count // mesh.shape["data"]) * mesh.shape["data"]


def shard_params(mesh: Mesh, tree):
    """Lays weights or a state, which every process holds whole, onto the mesh."""
    return jax.tree.map(_put, tree, leaf_shardings(mesh, tree))


def replicate(mesh: Mesh, tree):
    """Copies a tree, which every process holds whole, onto every device of the mesh."""
    return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, PartitionSpec())), tree)


def _put(leaf, sharding: NamedSharding):
    here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    if not here or sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    # Not `device_put`, with which the processes would send each other every leaf, to see that all agree.
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def local_row_mask(mesh: Mesh, count: int) -> Bool[np.ndarray, " count"]:
    """Which of `count` rows, split by `row_sharding`, lie on devices of this process."""
    here = np.zeros(count, bool)
    for (rows,) in row_sharding(mesh, count).addressable_devices_indices_map((count,)).values():
        here[rows] = True
    return here


def process_shard(mesh: Mesh, count: int) -> tuple[int, int]:
    """(which, of how many) equal parts of `count` rows this process holds; some may hold the same part."""
    held: dict[int, set] = {}
    for device, (rows,) in row_sharding(mesh, count).devices_indices_map((count,)).items():
        held.setdefault(device.process_index, set()).add(rows.start or 0)
    parts = sorted({tuple(sorted(starts)) for starts in held.values()})
    return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def shard_batch(mesh: Mesh, batch, count: int | None = None):
    """Splits the first axis of each array of a batch over the devices.

    Every process gives the whole of it, or where `count` says of how many rows it is, its `share`.
    """

    def put(rows):
        if count is None or count == len(rows):
            return _put(rows, row_sharding(mesh, len(rows)))
        return jax.make_array_from_process_local_data(
            row_sharding(mesh, count), rows, (count, *rows.shape[1:])
        )

    return jax.tree.map(put, batch)


def split_rows(x: jax.Array) -> jax.Array:
    """Splits rows over all devices, within jit, as `row_sharding` does; without a mesh they stay."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec("data" if len(x) % mesh.size else AXES))


def split_microbatches(mesh: Mesh, batch, parts: int):
    """Cuts the rows [b, ...] of a batch, within jit, into parts [n, b / n, ...]: each device cuts its own."""

    def cut(rows):
        size = len(rows) // parts
        spec = row_sharding(mesh, size).spec
        devices = mesh.shape["data"] if size % mesh.size else mesh.size
        rows = rows.reshape(devices, parts, size // devices, *rows.shape[1:]).swapaxes(0, 1)
        rows = rows.reshape(parts, size, *rows.shape[3:])
        return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec(None, *spec)))

    return jax.tree.map(cut, batch)
