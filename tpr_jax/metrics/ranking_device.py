"""Computes the ranks of `ranking.pair_ranks` on accelerators, in blocks of rows sharded over `data`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int, Int32
from tqdm import tqdm

from tpr_jax.metrics import ranking
from tpr_jax.models import matmul

ROWS = 1024  # rows per block on each device
MAX_SCORES = 2**28  # scores per block on each device: 1 GiB


def pair_ranks(
    query: Float[np.ndarray, "q e"],
    gallery: Float[np.ndarray, "g e"],
    query_pids: Int[np.ndarray, " q"],
    gallery_pids: Int[np.ndarray, " g"],
    pairs: ranking.Pairs,
    *,
    mesh: Mesh | None = None,
    rows: int = ROWS,
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Computes the same as `ranking.pair_ranks`, in float32 on a mesh.

    Each process of several ranks everything on its own devices.

    Args:
      query: features of the queries.
      gallery: features of the gallery.
      query_pids: unused; the pids are already in `pairs`.
      gallery_pids: unused.
      pairs: the matches.
      mesh: its axis `data` shards the rows; by default all devices of this process.
      rows: rows of a block on each device.
    """
    del query_pids, gallery_pids
    mesh = mesh or Mesh(np.array(jax.local_devices()), ("data",))
    query, gallery = query.astype(np.float32), gallery.astype(np.float32)
    by_gallery = pairs.query[pairs.by_gallery]
    return (
        _rank_matches(query, gallery, pairs.query_start, pairs.gallery, mesh, rows),
        _rank_matches(gallery, query, pairs.gallery_start, by_gallery, mesh, rows),
    )


def _rank_matches(
    left: Float[np.ndarray, "l e"],
    right: Float[np.ndarray, "r e"],
    start: Int[np.ndarray, " bounds"],
    matches: Int[np.ndarray, " n"],
    mesh: Mesh,
    rows: int,
) -> Int[np.ndarray, " n"]:
    """Returns the rank of each match among the rows of `right`; row i has matches[start[i]:start[i+1]]."""
    by_row, replicated = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    distinct, copies = ranking.distinct_rows(right)
    copies = None if len(distinct) == len(right) else jax.device_put(copies.astype(np.int32), replicated)
    distinct = jax.device_put(distinct, replicated)
    devices = mesh.shape["data"]
    height = devices * max(1, min(rows, MAX_SCORES // len(right), -(-len(left) // devices)))
    count = np.diff(start)
    offsets = np.arange(1 << int(count.max() - 1).bit_length())  # few lengths, because each is compiled

    positions, counts = [], []
    for low in tqdm(
        range(0, len(left), height), "ranking", delay=5, leave=False, dynamic_ncols=True, disable=None
    ):
        block = slice(low, low + height)
        position = start[:-1][block, None] + offsets
        is_match = offsets < count[block, None]
        chosen = np.where(is_match, matches[np.minimum(position, len(matches) - 1)], 0).astype(np.int32)
        padded = [_pad_rows(array, height) for array in (left[block], chosen)]
        positions.append((position, is_match))
        counts.append(_count_preceding(*jax.device_put(padded, by_row), distinct, copies))
    ranks = np.empty(len(matches), np.int64)
    for (position, is_match), preceding in zip(positions, counts, strict=True):
        ranks[position[is_match]] = 1 + np.asarray(preceding)[: len(position)][is_match]
    return ranks


@jax.jit
def _product(left: Float[jax.Array, "l e"], right: Float[jax.Array, "d e"]) -> Float[jax.Array, "l d"]:
    return matmul.matmul_f32(left, right.T)


@jax.jit
def _count_preceding(
    left: Float[jax.Array, "l e"],
    matches: Int32[jax.Array, "l k"],
    distinct: Float[jax.Array, "d e"],
    copies: Int32[jax.Array, " r"] | None,
) -> Int32[jax.Array, "l k"]:
    """Counts the columns that precede each match: a higher score, or the same one and a lower index."""
    scores = _product(left, distinct)
    if copies is not None:  # equal rows of `right` are scored once, so that their scores tie exactly
        scores = scores[:, copies]
    index = jnp.arange(scores.shape[1])

    def count(match: Int32[jax.Array, " l"]) -> Int32[jax.Array, " l"]:
        score = jnp.take_along_axis(scores, match[:, None], axis=1)
        precedes = (scores > score) | ((scores == score) & (index < match[:, None]))
        return jnp.sum(precedes, axis=1, dtype=jnp.int32)

    return jax.lax.map(count, matches.T).T


def _pad_rows(array: np.ndarray, length: int) -> np.ndarray:
    return np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)])
