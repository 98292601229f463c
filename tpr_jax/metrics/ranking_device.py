"""The ranks of `ranking.pair_ranks` on accelerators: tiles of the product, rows over the mesh's `data` axis.

On the devices, too, nothing is sorted: what precedes a match is counted by comparisons. A tile is made twice,
by the same program: first to read the matches' scores, then, when all are known, to count.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int
from tqdm import tqdm

from tpr_jax.metrics import ranking
from tpr_jax.models import matmul

TILE = (1024, 4096)  # queries of a device, gallery
NOBODY = np.iinfo(np.int32).max  # the index of rows that only fill a tile


def pair_ranks(
    query: Float[np.ndarray, "q e"],
    gallery: Float[np.ndarray, "g e"],
    query_pids: Int[np.ndarray, " q"],
    gallery_pids: Int[np.ndarray, " g"],
    pairs: ranking.Pairs,
    mesh: Mesh | None = None,
    tile: tuple[int, int] = TILE,
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """As `ranking.pair_ranks`, in float32 on `mesh`: by default all devices of this process, as `data`.

    Where there are several processes, each ranks all on its own devices.
    """
    mesh = mesh or Mesh(np.array(jax.local_devices()), ("data",))
    by_row, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    (query, query_copies), (gallery, gallery_copies) = distinct_float32(query), distinct_float32(gallery)
    height = min(tile[0], -(-len(query) // mesh.shape["data"])) * mesh.shape["data"]
    width = min(tile[1], len(gallery))
    down = ranking.tiles(query_copies, len(query), height)
    across = ranking.tiles(gallery_copies, len(gallery), width)
    right = [jax.device_put(_filled(gallery[t.lo : t.hi], width), whole) for t in across]
    place = query_copies[pairs.query], gallery_copies[pairs.gallery]
    within = _pairs_of_tiles(place, (height, width), len(across))

    scores = np.empty(len(pairs.query), np.float32)
    for i, rows in enumerate(down):
        left = jax.device_put(_filled(query[rows.lo : rows.hi], height), by_row)
        found = {
            j: _read(_product(left, right[j]), *within(i, j)[1])
            for j in range(len(across))
            if len(within(i, j)[0])
        }
        for j, values in found.items():
            scores[within(i, j)[0]] = np.asarray(values)[: len(within(i, j)[0])]

    forth = pairs.query_start, pairs.gallery, scores
    back = pairs.gallery_start, pairs.query[pairs.by_gallery], scores[pairs.by_gallery]
    ranks = np.ones(len(scores), np.int64), np.ones(len(scores), np.int64)
    columns = [jax.device_put(_table(t, width, *back), whole) for t in across]
    behind = [0] * len(across)
    for i, rows in enumerate(
        tqdm(down, desc="ranking", delay=5, leave=False, dynamic_ncols=True, disable=None)
    ):
        left = jax.device_put(_filled(query[rows.lo : rows.hi], height), by_row)
        table, ahead = jax.device_put(_table(rows, height, *forth), whole), 0
        for j in range(len(across)):
            mine, at = within(i, j)
            values = _filled(scores[mine], len(at[0]))
            counted = _count(_product(left, right[j]), *at, values, table, columns[j])
            ahead, behind[j] = ahead + counted[0], behind[j] + counted[1]
        _add(ranks[0], rows, pairs.query_start, ahead)
    for t, counted in zip(across, behind, strict=True):
        _add(ranks[1], t, pairs.gallery_start, counted)
    return ranks


def distinct_float32(feats):
    return ranking.distinct_rows(feats.astype(np.float32))


@jax.jit
def _product(left, right):
    return matmul.matmul_f32(left, right.T)


@jax.jit
def _read(scores, row, column):
    return scores[row, column]


@jax.jit
def _count(scores, row, column, values, down, right):
    """(columns that precede each match of a row [r, k], rows that precede each match of a column [c, l])."""
    scores = scores.at[row, column].set(values, mode="drop")
    if down["source"] is not None:
        scores = scores[down["source"]]
    if right["source"] is not None:
        scores = scores[:, right["source"]]
    somebody = (down["index"] < NOBODY)[:, None] & (right["index"] < NOBODY)
    scores = jnp.where(somebody, scores, -jnp.inf)

    def preceding(scores, index, matches):
        def of_one(match):
            own, other = (x[:, None] for x in match)
            return jnp.sum((scores > own) | ((scores == own) & (index < other)), axis=1, dtype=jnp.int32)

        return jax.lax.map(of_one, matches).T

    ahead = preceding(scores, right["index"], (down["score"].T, down["other"].T))
    return ahead, preceding(scores.T, down["index"], (right["score"].T, right["other"].T))


def _table(tile: ranking.Tile, size, start, other, score) -> dict:
    """What `_count` has to know of one axis of a tile: arrays of `size` rows, or more where rows have copies.

    `index` [r] are the original indices, `source` [r] their places in the product, None if that is where they
    are; `score` and `other` [r, k] are the scores of the matches and their indices on the other axis.
    """
    copied = len(tile.rows) > tile.hi - tile.lo
    length = max(size, _power_of_two(len(tile.rows))) if copied else size
    first, count = start[tile.rows], start[tile.rows + 1] - start[tile.rows]
    most = max(32, _power_of_two(count.max()))  # few sizes: each is a program to compile
    pair = np.minimum(first[:, None] + np.arange(most), len(score) - 1)
    real = np.arange(most) < count[:, None]
    return {
        "index": _filled(tile.rows.astype(np.int32), length, NOBODY),
        "source": _filled(tile.source.astype(np.int32), length) if copied else None,
        "score": _filled(np.where(real, score[pair], np.float32(np.inf)), length, np.inf),
        "other": _filled(np.where(real, other[pair], 0).astype(np.int32), length),
    }


def _pairs_of_tiles(place, sizes, across):
    """`(i, j) -> (which pairs lie in tile i, j; their rows and columns there)`, the latter filled up.

    What fills lies outside of the tile: reading it gives anything, writing it nothing.
    """
    number = place[0] // sizes[0] * across + place[1] // sizes[1]
    order = np.argsort(number, kind="stable")
    ordered = number[order]

    def within(i, j):
        begin, end = np.searchsorted(ordered, [i * across + j, i * across + j + 1])
        mine = order[begin:end]
        length = max(256, _power_of_two(len(mine)))
        at = [
            _filled((p[mine] % size).astype(np.int32), length, size)
            for p, size in zip(place, sizes, strict=True)
        ]
        return mine, at

    return within


def _add(ranks, tile, start, counted):
    counted = np.asarray(counted)[: len(tile.rows)]
    count = start[tile.rows + 1] - start[tile.rows]
    row = np.repeat(np.arange(len(count)), count)
    match = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    ranks[start[tile.rows][row] + match] += counted[row, match]


def _filled(rows, length, value=0):
    missing = np.full((length - len(rows), *rows.shape[1:]), value, rows.dtype)
    return np.concatenate([rows, missing])


def _power_of_two(count):
    return 1 << max(0, int(count) - 1).bit_length()
