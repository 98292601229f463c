"""Exact search on accelerators: a product and `top_k` on each device of the mesh, and the best of these.

The vectors lie on the devices in float16, a share each; with several processes every process reads only the
rows of its own devices, so a gallery may be larger than one machine.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Float16, Int

from tpr_jax.search.query.exact import rescore


@dataclass(frozen=True)
class Placed:
    """A gallery on the devices of a mesh of one axis, filled up to a multiple of their number."""

    mesh: Mesh
    vectors: jax.Array  # float16 [m, e], its rows split over the mesh
    count: int


def place(vectors: Float16[np.ndarray, "n e"], devices=None) -> Placed:
    """Copies the vectors onto all devices, each its rows."""
    devices = np.array(jax.devices() if devices is None else devices)
    mesh = Mesh(devices, ("rows",))
    count, width = vectors.shape
    each = -(-count // len(devices))

    def share(where: tuple[slice, ...]) -> np.ndarray:
        start, stop = where[0].start or 0, each * len(devices) if where[0].stop is None else where[0].stop
        rows = np.asarray(vectors[start:stop])
        return np.concatenate([rows, np.zeros((stop - start - len(rows), width), np.float16)])

    shape, by_row = (each * len(devices), width), NamedSharding(mesh, PartitionSpec("rows"))
    return Placed(mesh, jax.make_array_from_callback(shape, by_row, share), count)


def mesh_top_k(
    placed: Placed,
    vectors: Float16[np.ndarray, "n e"],
    query: Float[np.ndarray, " e"],
    k: int,
    allowed: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """As `exact.exact_top_k`. In several processes each has to ask the same at the same time."""
    count = placed.count if allowed is None else int(allowed.sum())
    k = min(k, count)
    # Products are summed in another order on each device: a few more rows than asked for decide the ties.
    asked = min(placed.count, -(-(k + 32) // 64) * 64)
    rows = _search(placed, np.asarray(query, np.float32), asked, _filled(placed, allowed))
    rows = rows[rows < placed.count]
    if allowed is not None:
        rows = rows[allowed[rows]]
    scores = rescore(vectors, query, rows)
    best = np.lexsort((rows, -scores))[:k]
    return scores[best], rows[best]


def _filled(placed: Placed, allowed) -> jax.Array:
    total = placed.vectors.shape[0]
    mask = np.zeros(total, bool)
    mask[: placed.count] = True if allowed is None else allowed
    by_row = NamedSharding(placed.mesh, PartitionSpec("rows"))
    return jax.make_array_from_callback((total,), by_row, lambda where: mask[where])


def _search(placed: Placed, query: np.ndarray, k: int, mask: jax.Array) -> np.ndarray:
    return np.asarray(_program(placed.mesh, k)(query, placed.vectors, mask))


@functools.cache
def _program(mesh: Mesh, k: int):
    """(query [e], vectors, mask) -> rows of the best k over all devices, best first, the same everywhere."""
    rows = PartitionSpec("rows")

    def local(query, vectors, mask):
        # The query as a sum of two float16: all its digits, and no copy of the vectors in float32.
        high = query.astype(jnp.float16)
        parts = jnp.stack([high, (query - high.astype(jnp.float32)).astype(jnp.float16)], axis=1)
        scores = jnp.dot(vectors, parts, preferred_element_type=jnp.float32).sum(axis=1)
        scores, index = jax.lax.top_k(jnp.where(mask, scores, -jnp.inf), min(k, len(scores)))
        index += jax.lax.axis_index("rows") * len(vectors)
        index = jnp.where(jnp.isfinite(scores), index, jnp.iinfo(jnp.int32).max)
        scores, index = (jax.lax.all_gather(x, "rows", tiled=True) for x in (scores, index))
        _, best = jax.lax.top_k(scores, min(k, len(scores)))
        return index[best]

    everywhere = PartitionSpec()
    split = jax.shard_map(
        local, mesh=mesh, in_specs=(everywhere, rows, rows), out_specs=everywhere, check_vma=False
    )
    return jax.jit(split)
