"""Search engines, which find the best rows of an index for a query vector."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Bool, Float, Float16, Int

from tpr_jax.errors import UserError
from tpr_jax.search.index.store import Index
from tpr_jax.search.query import exact, mesh
from tpr_jax.search.query.selection import Selection

ENGINES = ("auto", "cpu", "mesh", "approximate", "postgres")
FEW_ROWS = 2048  # allowed rows up to which scoring each of them is fastest

TopK = Callable[[np.ndarray, int, np.ndarray | None], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Engine:
    """A search engine.

    Attributes:
      name: 'cpu' or 'mesh', which are exact, or 'approximate' or 'postgres', whose recall was measured when
        the index was made.
      search: (query, k, allowed rows or None) -> (scores, rows), as `exact.exact_top_k`.
      select: condition or None -> the rows that meet it; None if the engine cannot evaluate conditions.
    """

    name: str
    search: TopK
    select: Callable[[str | None], Selection] | None = None


def make_engine(index: Index, engine: str = "auto") -> Engine:
    """Loads an engine for an index.

    Args:
      index: the index.
      engine: one of `ENGINES`. 'auto' is 'postgres' if the index is stored there, and 'mesh' on accelerators;
        on a CPU it is 'approximate' if the index has inverted lists, else 'cpu'.

    Raises:
      UserError: the engine is unknown, or the index has no inverted lists or store for it.
    """
    if engine not in ENGINES:
        raise UserError(f"--engine {engine} is unknown: choose from {', '.join(ENGINES)}")
    vectors = index.vectors
    if engine == "postgres" or (engine == "auto" and index.info.get("store")):
        return _postgres_engine(index)
    if engine == "auto":
        on_cpu = "approximate" if index.file("ivf") else "cpu"
        engine = on_cpu if jax.default_backend() == "cpu" else "mesh"
    if engine == "mesh":
        sharded = mesh.shard_vectors(vectors)
        return Engine(engine, lambda query, k, allowed: mesh.mesh_top_k(sharded, vectors, query, k, allowed))
    if engine == "approximate":
        path = index.file("ivf")
        if path is None:
            raise UserError(
                f"{index.folder}: has no inverted lists for an approximate search: index with --approximate"
            )
        from tpr_jax.search.query import approximate  # imports FAISS, which other engines do not need

        lists = approximate.open_lists(path)
        search = approximate.lists_top_k
        return Engine(engine, lambda query, k, allowed: search(lists, vectors, query, k, allowed))
    names = index.info["files"].get("codes")
    if not names:
        return Engine(engine, lambda query, k, allowed: brute_force_top_k(vectors, query, k, allowed))
    codes = exact.open_codes(index.folder, names)
    return Engine(engine, lambda query, k, allowed: exact.exact_top_k(codes, vectors, query, k, allowed))


def _postgres_engine(index: Index) -> Engine:
    if not index.info.get("store"):
        raise UserError(f"{index.folder}: is not in PostgreSQL: index with --store postgresql://...")
    from tpr_jax.search.postgres import engine as postgres  # imports PyArrow's functions

    store = postgres.open_store(index, make_engine(index, "cpu").search)
    return Engine("postgres", store.top_k, store.select)


def top_k(
    engine: Engine,
    index: Index,
    query: Float[np.ndarray, " e"],
    k: int,
    allowed: Bool[np.ndarray, " n"] | None,
) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Returns scores and rows of the best k allowed rows, best first, ties by row."""
    if allowed is not None and allowed.sum() <= FEW_ROWS:
        return brute_force_top_k(index.vectors, query, k, allowed)
    return engine.search(query, k, allowed)


def brute_force_top_k(
    vectors: Float16[np.ndarray, "n e"],
    query: Float[np.ndarray, " e"],
    k: int,
    allowed: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Computes the same as `exact.exact_top_k` by scoring every allowed row."""
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    scores = exact.rescore(vectors, query, rows)
    best = np.lexsort((rows, -scores))[:k]
    return scores[best], rows[best]
