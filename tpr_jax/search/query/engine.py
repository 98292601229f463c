"""An index, loaded for queries: which search answers, and the best rows for a vector."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from tpr_jax.errors import UserError
from tpr_jax.search.index.store import Index
from tpr_jax.search.query import approximate, exact, mesh

ENGINES = ("auto", "cpu", "mesh", "approximate")
FEW = 2048  # rows that a filter leaves: they are scored at once

TopK = Callable[[np.ndarray, int, np.ndarray | None], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Engine:
    """What answers: 'cpu' and 'mesh' are exact, 'approximate' has the recall that the index measured."""

    name: str
    search: TopK


def make_engine(index: Index, engine: str = "auto") -> Engine:
    """Loads what an engine needs. By default the mesh of accelerators where there are some; on a CPU the
    lists, where the index has them, or else the exact search.

    Raises:
      UserError: the engine is unknown, or the index has no lists for it.
    """
    if engine not in ENGINES:
        raise UserError(f"--engine {engine} is unknown: known are: {', '.join(ENGINES)}")
    if engine == "auto":
        on_cpu = "approximate" if index.file("ivf") else "cpu"
        engine = on_cpu if jax.default_backend() == "cpu" else "mesh"
    if engine == "mesh":
        placed = mesh.place(index.vectors)
        return Engine(engine, lambda q, k, allowed: mesh.mesh_top_k(placed, index.vectors, q, k, allowed))
    if engine == "approximate":
        path = index.file("ivf")
        if path is None:
            raise UserError(
                f"{index.folder}: has no lists for an approximate search: index with --approximate"
            )
        lists = approximate.open_lists(path)
        search = approximate.lists_top_k
        return Engine(engine, lambda q, k, allowed: search(lists, index.vectors, q, k, allowed))
    names = index.info["files"].get("codes")
    if not names:
        return Engine(engine, lambda q, k, allowed: all_top_k(index.vectors, q, k, allowed))
    rounded = exact.open_codes(index.folder, names)
    return Engine(engine, lambda q, k, allowed: exact.exact_top_k(rounded, index.vectors, q, k, allowed))


def top_k(
    engine: Engine,
    index: Index,
    query: Float[np.ndarray, " e"],
    k: int,
    allowed: Bool[np.ndarray, " n"] | None,
) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Scores and rows of the best k among the allowed rows, best first, ties by row."""
    if allowed is not None and allowed.sum() <= FEW:
        return all_top_k(index.vectors, query, k, allowed)
    return engine.search(query, k, allowed)


def all_top_k(vectors, query, k: int, allowed=None) -> tuple[np.ndarray, np.ndarray]:
    """As `exact.exact_top_k`, by scoring each row."""
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    scores = exact.rescore(vectors, query, rows)
    best = np.lexsort((rows, -scores))[:k]
    return scores[best], rows[best]
