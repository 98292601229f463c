"""The mesh of devices and what lies where on it."""

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tpr_jax.errors import UserError


def make_mesh(data: int = -1, model: int = 1) -> Mesh:
    """A mesh of all devices with the axes `data` and `model`; -1 takes all that is left."""
    count = len(jax.devices())
    if data == -1 and model == -1:
        raise UserError("mesh.data and mesh.model are both -1: give one of them a number")
    sizes = [count // max(model, 1) if data == -1 else data, count // max(data, 1) if model == -1 else model]
    if min(sizes) < 1 or sizes[0] * sizes[1] != count:
        raise UserError(
            f"mesh.data={data} and mesh.model={model} do not make up the {count} devices here: "
            "their product must be that number (-1 takes all that is left)"
        )
    return Mesh(mesh_utils.create_device_mesh(tuple(sizes)), ("data", "model"))


def everywhere(mesh: Mesh, tree):
    """Copies a tree onto every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def by_row(mesh: Mesh, batch):
    """Splits the first axis of each array of a batch over the mesh's `data` axis."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
