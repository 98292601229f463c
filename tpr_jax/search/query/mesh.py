"""Exact search on accelerators: a matmul and `top_k` on each device, and a merge of their results.

The vectors are sharded over the devices in float16. With several processes, each process reads only the rows
of its own devices, so a gallery may be larger than the memory of one machine.
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
class ShardedVectors:
    """Vectors of a gallery, sharded by rows over a mesh with one axis, and padded to its size."""

    mesh: Mesh
    vectors: Float16[jax.Array, "padded e"]
    count: int  # number of vectors, without the padding


def shard_vectors(vectors: Float16[np.ndarray, "n e"], devices=None) -> ShardedVectors:
    """Copies the vectors to the devices (by default all), each its own rows."""
    devices = np.array(jax.devices() if devices is None else devices)
    mesh = Mesh(devices, ("rows",))
    count, width = vectors.shape
    padded = -(-count // len(devices)) * len(devices)

    def read_rows(index) -> np.ndarray:
        start, stop, _ = index[0].indices(padded)
        rows = np.asarray(vectors[start:stop])
        return np.concatenate([rows, np.zeros((stop - start - len(rows), width), np.float16)])

    sharding = NamedSharding(mesh, PartitionSpec("rows"))
    return ShardedVectors(mesh, jax.make_array_from_callback((padded, width), sharding, read_rows), count)


def mesh_top_k(
    sharded: ShardedVectors,
    vectors: Float16[np.ndarray, "n e"],
    query: Float[np.ndarray, " e"],
    k: int,
    allowed: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Computes the same as `exact.exact_top_k` on the mesh.

    With several processes, all of them must make the same call at the same time.
    """
    k = min(k, sharded.count if allowed is None else int(allowed.sum()))
    # Devices sum products in different orders: some extra candidates make sure that ties are decided by row.
    num_candidates = min(sharded.count, -(-(k + 32) // 64) * 64)
    search = _compile_search(sharded.mesh, num_candidates)
    rows = np.asarray(search(np.asarray(query, np.float32), sharded.vectors, _padded_mask(sharded, allowed)))
    rows = rows[rows < sharded.count]
    if allowed is not None:
        rows = rows[allowed[rows]]
    scores = rescore(vectors, query, rows)
    best = np.lexsort((rows, -scores))[:k]
    return scores[best], rows[best]


def _padded_mask(sharded: ShardedVectors, allowed: Bool[np.ndarray, " n"] | None) -> jax.Array:
    total = sharded.vectors.shape[0]
    mask = np.zeros(total, bool)
    mask[: sharded.count] = True if allowed is None else allowed
    sharding = NamedSharding(sharded.mesh, PartitionSpec("rows"))
    return jax.make_array_from_callback((total,), sharding, lambda index: mask[index])


@functools.cache
def _compile_search(mesh: Mesh, k: int):
    """Returns (query [e], vectors, mask) -> rows of the best k over all devices, best first, replicated."""
    by_row, replicated = PartitionSpec("rows"), PartitionSpec()

    def search_shard(query, vectors, mask):
        # The query as a sum of two float16 vectors keeps its digits without a float32 copy of the vectors.
        high = query.astype(jnp.float16)
        low = (query - high.astype(jnp.float32)).astype(jnp.float16)
        halves = jnp.stack([high, low], axis=1)
        scores = jnp.dot(vectors, halves, preferred_element_type=jnp.float32).sum(axis=1)
        scores, rows = jax.lax.top_k(jnp.where(mask, scores, -jnp.inf), min(k, len(scores)))
        rows += jax.lax.axis_index("rows") * len(vectors)
        rows = jnp.where(jnp.isfinite(scores), rows, jnp.iinfo(jnp.int32).max)
        scores, rows = (jax.lax.all_gather(x, "rows", tiled=True) for x in (scores, rows))
        _, best = jax.lax.top_k(scores, min(k, len(scores)))
        return rows[best]

    sharded_search = jax.shard_map(
        search_shard,
        mesh=mesh,
        in_specs=(replicated, by_row, by_row),
        out_specs=replicated,
        check_vma=False,
    )
    return jax.jit(sharded_search)
