"""Searches the copy of an index in PostgreSQL, see `postgres.update`.

Filters are SQL, and the HNSW index of pgvector finds the candidates, with the number of them that reached a
recall of 0.99 when the index was made. Few matching rows are compared one by one. The candidates are scored
again with the vectors of the folder, so that scores and order are those of the other engines.
"""

import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from tpr_jax.search.index.store import Index, public_table
from tpr_jax.search.postgres import connection as connections
from tpr_jax.search.postgres import stored as stored_lib
from tpr_jax.search.postgres.nearest import exact_ids, nearest_ids
from tpr_jax.search.postgres.where import Fragment, where_sql
from tpr_jax.search.query import exact
from tpr_jax.search.query.selection import Selection
from tpr_jax.search.query.where import matching

MAX_ONE_BY_ONE = 20_000  # matching rows up to which each of them is compared
_ALL = Fragment("true", ())

TopK = Callable[[np.ndarray, int, np.ndarray | None], tuple[np.ndarray, np.ndarray]]


class _Changed(Exception):
    """The table has another version than the opened index."""


@dataclass
class PostgresStore:
    """The table of an index, with connections that are used again by any thread.

    Attributes:
      address: where it is.
      index: the index.
      files: searches the index's own files, while the table has another version.
      ids: the identifiers of the rows, in ascending order.
      rows: the row of each of `ids`.
    """

    address: connections.Address
    index: Index
    files: TopK
    ids: Int64[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]
    _idle: queue.LifoQueue = field(default_factory=queue.LifoQueue)

    def select(self, where: str | None) -> Selection:
        """Returns the rows that meet a condition, or all of them.

        Raises:
          UserError: the condition is invalid, or the server cannot be used.
        """
        if where is None:
            return Selection(
                "postgres", len(self.ids), lambda query, k: self.top_k(query, k, None), lambda: None
            )
        table = public_table(self.index)
        columns = stored_lib.table_columns(table.schema)
        condition = where_sql(table.schema, {name: c for name, (c, _) in columns.items()}, where)
        try:
            count = self._run(lambda connection, name, _: _count(connection, name, condition))
        except _Changed:
            allowed = matching(table, where)
            return Selection(
                "cpu",
                int(allowed.sum()),
                lambda query, k: self.files(query, k, allowed),
                lambda: allowed,
            )
        return Selection(
            "postgres",
            count,
            lambda query, k: self._filtered(query, k, where, condition, count),
            lambda: matching(table, where),
        )

    def top_k(
        self, query: Float[np.ndarray, " e"], k: int, allowed: Bool[np.ndarray, " n"] | None
    ) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
        """Searches all rows; `allowed` ones are searched in the files."""
        if allowed is not None:
            return self.files(query, k, allowed)
        try:
            return self._search(query, k, _ALL, len(self.ids))
        except _Changed:
            return self.files(query, k, None)

    def _filtered(self, query: np.ndarray, k: int, where: str, condition: Fragment, count: int):
        try:
            return self._search(query, k, condition, count)
        except _Changed:
            return self.files(query, k, matching(public_table(self.index), where))

    def _search(self, query: np.ndarray, k: int, condition: Fragment, count: int):
        def find(connection: Any, name: str, candidates: int | None) -> list[int]:
            if candidates is not None and count > MAX_ONE_BY_ONE:
                found = nearest_ids(connection, name, query, k, candidates, condition)
                if len(found) >= min(k, count):
                    return found
            return exact_ids(connection, name, query, k, condition)

        found = np.array(self._run(find), np.int64)
        rows = self.rows[np.searchsorted(self.ids, found)]
        scores = exact.rescore(self.index.vectors, query, rows)
        best = np.lexsort((rows, -scores))[:k]
        return scores[best], rows[best]

    def _run(self, work: Callable[[Any, str, int | None], Any]) -> Any:
        """Returns `work(connection, table, candidates)`, in a transaction that sees one state of the table.

        Raises:
          UserError: the server cannot be used.
          _Changed: the table has another version than the opened index.
        """
        psycopg = connections.driver()
        try:
            connection, is_new = self._idle.get_nowait(), False
        except queue.Empty:
            connection, is_new = connections.open_connection(self.address), True
        try:
            result = self._transact(connection, work)
        except psycopg.errors.UndefinedTable:  # replaced between two statements
            connection.close()
            raise _Changed from None
        except psycopg.OperationalError as error:
            connection.close()
            if is_new or not connection.broken:
                with connections.explained(self.address):
                    raise error
            return self._run(work)  # the server was restarted since; the idle connections end one by one
        except _Changed:
            self._idle.put(connection)
            raise
        except BaseException as error:
            connection.close()
            with connections.explained(self.address):
                raise error
        self._idle.put(connection)
        return result

    def _transact(self, connection: Any, work: Callable[[Any, str, int | None], Any]) -> Any:
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read, read only")
            stored = stored_lib.read_stored(connection, self.address.table)
            info, known = self.index.info, self.index.info["store"]
            if stored is None or (stored.version, info["number"]) != (known["version"], known["number"]):
                raise _Changed
            return work(connection, f"{self.address.table}_{stored.generation}", stored.candidates)


def open_store(index: Index, files: TopK) -> PostgresStore:
    """Opens the store of an index.

    Args:
      index: the index.
      files: (query, k, allowed rows or None) -> (scores, rows) of the index's own files.

    Raises:
      UserError: the index has no store, or it cannot be used for this index.
    """
    address = stored_lib.address_of(index.info)
    assert address is not None
    with connections.connect(address) as connection:
        stored = stored_lib.read_stored(connection, address.table)
        stored_lib.check_stored(stored, index.info["store"]["id"], address, index.info["model"])
    ids = stored_lib.row_ids(index.table)
    order = np.argsort(ids)
    return PostgresStore(address, index, files, ids[order], order)


def _count(connection: Any, name: str, condition: Fragment) -> int:
    query = f"select count(*) from {name} where {condition.text}"
    return connection.execute(query, condition.values).fetchone()[0]
