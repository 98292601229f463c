"""Finds the rows of a table that are nearest to a query, within a transaction."""

from typing import Any

import numpy as np
from jaxtyping import Float

# Candidates of a search. Those beyond pgvector's limit of hnsw.ef_search come from its iterative scan.
CANDIDATES = (40, 80, 160, 320, 640, 1000, 2000, 4000, 8000)
_MAX_EF_SEARCH = 1000
_MORE = 16  # rows beyond k, because pgvector rounds the query and the caller does not
_ALL = ("true", ())


def nearest_ids(
    connection: Any,
    name: str,
    query: Float[np.ndarray, " e"],
    k: int,
    candidates: int,
    condition: tuple[str, tuple] = _ALL,
) -> list[int]:
    """Returns the ids of k or a few more rows near a query by the HNSW index, in a transaction."""
    from pgvector import HalfVector

    settings = {
        "hnsw.ef_search": str(min(max(candidates, k), _MAX_EF_SEARCH)),
        # Searches until enough rows meet the condition; the results are sorted again afterwards.
        "hnsw.iterative_scan": "relaxed_order",
        "hnsw.max_scan_tuples": str(2**31 - 1),
        "hnsw.scan_mem_multiplier": "64",
    }
    calls = ", ".join("set_config(%s, %s, true)" for _ in settings)
    connection.execute(f"select {calls}", [text for pair in settings.items() for text in pair])
    text, values = condition
    # All candidates: the caller ranks them, and a condition that few of the nearest meet needs as many.
    limit = max(k + _MORE, candidates)
    rows = connection.execute(
        f"select id from {name} where {text} order by embedding <#> %s limit %s",
        (*values, HalfVector(query), limit),
        binary=True,
    )
    return [identifier for (identifier,) in rows.fetchall()]


def exact_ids(
    connection: Any, name: str, query: np.ndarray, k: int, condition: tuple[str, tuple] = _ALL
) -> list[int]:
    """Returns the ids of k or a few more rows, by comparing all that meet the condition."""
    from pgvector import Vector

    text, values = condition
    # Materialized, so that the rows are not found by the HNSW index.
    rows = connection.execute(
        f"with matching as materialized (select id, embedding from {name} where {text}) "
        "select id from matching order by embedding::vector <#> %s limit %s",
        (*values, Vector(query), k + _MORE),
        binary=True,
    )
    return [identifier for (identifier,) in rows.fetchall()]
