"""Keeps a copy of an index in PostgreSQL with pgvector, which then answers its queries.

The folder of the index stays complete: it has the vectors, so that an update encodes only what is new.
`index.json` has the field `store`: `url` without a password, `table`, `id`, and the `version` of the table
that has the photos of the index's `number`. In the database, `tpr_jax_stores` has a row per index, which
names the table with its photos and that table's version. One transaction replaces both, so that a query
sees the old photos or the new ones. While the table has another version than an opened index, the index is
searched in the folder (`postgres.engine`).
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float16, Int, Int64

from tpr_jax.errors import UserError
from tpr_jax.search.index.store import INFO_FILE, KEY_COLUMNS, Index, open_index, public_table
from tpr_jax.search.postgres.connection import STORES, Address, connect, parse_address
from tpr_jax.search.postgres.nearest import CANDIDATES, nearest_ids
from tpr_jax.search.postgres.stored import (
    CREATE_STORES,
    FORMAT,
    Stored,
    address_of,
    check,
    check_stored,
    hash_64,
    id_for,
    read_stored,
    row_ids,
    table_columns,
)
from tpr_jax.search.query.approximate import RECALL, RECALL_AT
from tpr_jax.utils import progress
from tpr_jax.utils.files import write_json
from tpr_jax.utils.plural import counted

MIN_HNSW = 10_000  # rows up to which reading all of them is as fast
# Rows -> links per row and candidates for them. With the first ones, those of pgvector, a million rows
# reached a recall of 0.975 with 8,000 candidates of a search; building with the others takes twice as long.
GRAPHS = {0: (16, 64), 300_000: (24, 128)}
MAX_WIDTH = 4000  # of a halfvec with an HNSW index
SAMPLE = 128  # photos to measure recall with
_MAX_INDEXED_TEXT = 200  # characters up to which a text column gets an index
_BLOCK = 16384
_MEMORY_KB = (65_536, 4_194_304)  # least and most memory for building the HNSW index
_NEW_TABLE_SHARE = 1 / 3  # changed rows from which a new table is faster

Log = Callable[[str], object]


def sync(
    folder: Path,
    url: str | None = None,
    *,
    sentence_feats: Callable[[], Float[np.ndarray, "q e"]] | None = None,
    log: Log = lambda line: None,
) -> dict | None:
    """Brings the copy of an index in PostgreSQL up to date, in one transaction.

    Call it while no other process writes the folder.

    Args:
      folder: the index.
      url: the store's address; by default the one in `index.json`.
      sentence_feats: returns features of typical sentences, with which recall is measured besides photos.
      log: called with a line about what was changed.

    Returns:
      `added`, `removed` and `count` (rows), `candidates` and `recall`; None if the index has no store.

    Raises:
      UserError: the store cannot be used for this index.
    """
    index = open_index(folder)
    address = parse_address(url) if url else address_of(index.info)
    if address is None:
        return None
    if index.vectors.shape[1] > MAX_WIDTH:
        raise UserError(
            f"{folder}: vectors of {index.vectors.shape[1]} numbers; pgvector searches {MAX_WIDTH}"
        )
    identifier = id_for(index.info, address) or uuid.uuid4().hex
    entry = {"url": address.url, "table": address.table, "id": identifier, "version": None, "number": None}
    if address_of(index.info) != address_of({"store": entry}):
        # Now, so that a run that is killed after its transaction recognizes its table again.
        check(url or address.url, index.info)
        write_json(folder / INFO_FILE, {**index.info, "store": entry})
    with connect(address) as connection, connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext(%s))", (f"{STORES}.{address.table}",))
        connection.execute(CREATE_STORES)
        stored = read_stored(connection, address.table)
        check_stored(stored, identifier, address, index.info["model"])
        version, result = _Update(connection, address, index, stored, sentence_feats).run(identifier)
    entry |= {"version": version, "number": index.info["number"]}
    # Read again: nothing else writes it while the folder is locked.
    write_json(folder / INFO_FILE, {**index.info, "store": entry})
    log(
        f"{address}: {counted(result['count'], 'row')} in table {address.table}: "
        f"{result['added']:,} written, {result['removed']:,} removed"
    )
    if result["recall"] is not None and result["recall"] < RECALL:
        log(f"warning: the search in PostgreSQL finds {result['recall']:.1%} of the best 10 photos, not 99 %")
    return result


@dataclass(frozen=True)
class _Update:
    """One update of a table, within a transaction."""

    connection: Any
    address: Address
    index: Index
    stored: Stored | None
    sentence_feats: Callable[[], np.ndarray] | None

    def run(self, identifier: str) -> tuple[str, dict]:
        """Changes what differs; returns the version of the table and the fields of `sync`'s result."""
        table = public_table(self.index)
        columns = table_columns(table.schema)
        ids, digests = row_ids(table), _digests(table, self.index.vectors)
        if len(np.unique(ids)) != len(ids):
            raise UserError(f"{self.index.folder}: two photos have one hash; rename one of them")
        same = self.stored is not None and {n: tuple(c) for n, c in self.stored.columns.items()} == columns
        old_ids, old_digests = self._read_digests() if self.stored else (ids[:0], digests[:0])
        rows, gone = differing(ids, digests, old_ids, old_digests)
        generation = self.stored.generation if self.stored else 0
        result = {"added": len(rows), "removed": len(gone), "count": len(ids)}
        if self.stored and same and not len(rows) and not len(gone):
            kept = {"candidates": self.stored.candidates, "recall": self.stored.recall}
            return self.stored.version, result | kept
        new_table = not same or len(rows) + len(gone) > _NEW_TABLE_SHARE * len(old_ids)
        if new_table:
            generation, rows = generation + 1, np.arange(len(ids))
            self._create_table(f"{self.address.table}_{generation}", columns)
        name = f"{self.address.table}_{generation}"
        if not new_table:
            self.connection.execute(f"delete from {name} where id = any(%s)", (gone.tolist(),))
        self._copy(name, columns, table, rows, ids, digests)
        if new_table:
            self._create_column_indexes(name, columns, table)
        measured = self._create_hnsw(name)
        self.connection.execute(f"analyze {name}")
        least = None if new_table or not self.stored else self.stored.candidates
        candidates, recall = self._tune(name, ids, least) if measured else (None, None)
        version = uuid.uuid4().hex
        values = Stored(
            id=identifier,
            version=version,
            generation=generation,
            model_sha256=self.index.info["model"]["sha256"],
            width=self.index.vectors.shape[1],
            columns=columns,
            candidates=candidates,
            recall=recall,
        )
        self._write_stored(values)
        if new_table and self.stored is not None:
            # Last, because queries wait for the lock of this statement until the end of the transaction.
            self.connection.execute(f"drop table if exists {self.address.table}_{self.stored.generation}")
        return version, result | {"added": len(rows), "candidates": candidates, "recall": recall}

    def _read_digests(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.stored is not None
        name = f"{self.address.table}_{self.stored.generation}"
        if self.connection.execute("select to_regclass(%s)", (name,)).fetchone()[0] is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)  # somebody dropped it
        found = self.connection.execute(f"select id, digest from {name}", binary=True).fetchall()
        pairs = np.array(found, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def _create_table(self, name: str, columns: Mapping[str, tuple[str, str]]) -> None:
        fields = ", ".join(f'"{column}" {dtype}' for column, dtype in columns.values())
        width = self.index.vectors.shape[1]
        self.connection.execute(
            f"create table {name} (id bigint primary key, digest bigint not null, {fields}, "
            f"embedding halfvec({width}) not null)"
        )

    def _copy(
        self,
        name: str,
        columns: Mapping[str, tuple[str, str]],
        table: pa.Table,
        rows: Int[np.ndarray, " r"],
        ids: Int64[np.ndarray, " n"],
        digests: Int64[np.ndarray, " n"],
    ) -> None:
        names = ", ".join(f'"{column}"' for column, _ in columns.values())
        types = [dtype.split(" collate")[0] for _, dtype in columns.values()]
        statement = f"copy {name} (id, digest, {names}, embedding) from stdin (format binary)"
        with (
            progress.show(len(rows), "rows") as bar,
            self.connection.cursor() as cursor,
            cursor.copy(statement) as copy,
        ):
            copy.set_types(["bigint", "bigint", *types, "halfvec"])
            for block in np.array_split(rows, max(1, -(-len(rows) // _BLOCK))):
                for row in self._records(table.take(pa.array(block)), block, ids, digests):
                    copy.write_row(row)
                bar.update(len(block))

    def _records(
        self, table: pa.Table, rows: np.ndarray, ids: np.ndarray, digests: np.ndarray
    ) -> Iterator[tuple]:
        from pgvector import HalfVector

        for name in table.column_names:
            values = table[name].to_pylist() if pa.types.is_string(table.schema.field(name).type) else []
            found = next((i for i, value in enumerate(values) if value is not None and "\0" in value), None)
            if found is not None:
                raise UserError(
                    f"{table['path'][found].as_py()}: {name} has a NUL character, which PostgreSQL cannot "
                    "store: remove it from the table of photos"
                )
        values = [values.to_pylist() for values in table.columns]
        vectors = (HalfVector(vector) for vector in self.index.vectors[rows])
        return zip(ids[rows].tolist(), digests[rows].tolist(), *values, vectors, strict=True)

    def _create_column_indexes(
        self, name: str, columns: Mapping[str, tuple[str, str]], table: pa.Table
    ) -> None:
        for field in table.schema:
            if field.name in KEY_COLUMNS or pa.types.is_null(field.type):
                continue
            if pa.types.is_string(field.type):
                texts = (text for text in table[field.name].to_pylist() if text is not None)
                if max(map(len, texts), default=0) > _MAX_INDEXED_TEXT:
                    continue  # more than a B-tree takes
            self.connection.execute(f'create index on {name} ("{columns[field.name][0]}")')

    def _create_hnsw(self, name: str) -> bool:
        """Creates the HNSW index for a table that is large enough; returns whether it has one."""
        count, width = self.index.vectors.shape
        if count < MIN_HNSW:
            return (
                self.connection.execute("select to_regclass(%s)", (f"{name}_hnsw",)).fetchone()[0] is not None
            )
        links, candidates = GRAPHS[max(rows for rows in GRAPHS if rows <= count)]
        # pgvector takes 16 bytes per link of the lowest layer, which has twice as many, and about 300 a row.
        # If the graph does not fit, building takes many times as long.
        kilobytes = min(max(_MEMORY_KB[0], count * (2 * width + 32 * links + 300) // 750), _MEMORY_KB[1])
        self.connection.execute("select set_config('maintenance_work_mem', %s, true)", (f"{kilobytes}kB",))
        self.connection.execute(
            f"create index if not exists {name}_hnsw on {name} using hnsw (embedding halfvec_ip_ops) "
            f"with (m = {links}, ef_construction = {candidates})"
        )
        return True

    def _tune(self, name: str, ids: Int64[np.ndarray, " n"], least: int | None) -> tuple[int, float]:
        """Returns the smallest number of candidates whose recall is surely `RECALL`, and that recall.

        It is reached for photos and for sentences: these are farther from all photos, which makes the search
        in a graph harder.
        """
        vectors = self.index.vectors
        rng = np.random.default_rng(0)
        sample = np.sort(rng.choice(len(vectors), min(SAMPLE, len(vectors)), replace=False))
        kinds = [vectors[sample].astype(np.float32)]
        if self.sentence_feats is not None:
            kinds.append(self.sentence_feats())
        expected = [exact_top_10(vectors, queries) for queries in kinds]
        recall, candidates = 0.0, 0
        for candidates in (number for number in CANDIDATES if number >= (least or 0)):
            recalls = [
                self._recalls(name, ids, queries, rows, candidates)
                for queries, rows in zip(kinds, expected, strict=True)
            ]
            recall = min(float(one.mean()) for one in recalls)
            if min(lower_bound(one) for one in recalls) >= RECALL:
                break
        return candidates, recall

    def _recalls(
        self,
        name: str,
        ids: Int64[np.ndarray, " n"],
        queries: Float[np.ndarray, "q e"],
        expected: Int[np.ndarray, "q k"],
        candidates: int,
    ) -> Float[np.ndarray, " q"]:
        found = [nearest_ids(self.connection, name, query, RECALL_AT, candidates) for query in queries]
        return np.array([np.isin(ids[rows], f).mean() for rows, f in zip(expected, found, strict=True)])

    def _write_stored(self, values: Stored) -> None:
        names, marks = ", ".join(Stored._fields), ", ".join(["%s"] * len(Stored._fields))
        changes = ", ".join(f"{name} = excluded.{name}" for name in Stored._fields)
        fields = values._replace(columns=json.dumps(values.columns))  # ty: ignore[invalid-argument-type]
        self.connection.execute(
            f"insert into {STORES} (name, format, {names}) values (%s, %s, {marks}) "
            f"on conflict (name) do update set format = excluded.format, {changes}",
            (self.address.table, FORMAT, *fields),
        )


def differing(
    ids: Int64[np.ndarray, " n"],
    digests: Int64[np.ndarray, " n"],
    old_ids: Int64[np.ndarray, " m"],
    old_digests: Int64[np.ndarray, " m"],
) -> tuple[Int[np.ndarray, " r"], Int64[np.ndarray, " g"]]:
    """Returns the rows that are new or changed, and the ids of old rows that are gone or changed."""
    order = np.argsort(old_ids)
    found = np.searchsorted(old_ids, ids, sorter=order)
    place = order[np.minimum(found, len(order) - 1)] if len(order) else np.zeros(len(ids), np.int64)
    same = np.zeros(len(ids), bool)
    if len(order):
        same = (old_ids[place] == ids) & (old_digests[place] == digests)
    return np.flatnonzero(~same), np.setdiff1d(old_ids, ids[same])


def lower_bound(values: Float[np.ndarray, " n"]) -> float:
    """Returns the mean less two standard errors: what the mean over further samples probably exceeds."""
    return float(values.mean() - 2 * values.std() / np.sqrt(len(values)))


def delete(folder: Path, rows: Sequence[int]) -> int:
    """Removes rows of an index from its store for good, before they are removed from the folder.

    Until `sync` is called, queries are answered from the folder.

    Args:
      folder: the index.
      rows: rows of the index as it is now.

    Returns:
      The number of rows removed; 0 if the index has no store.

    Raises:
      UserError: the store cannot be used for this index.
    """
    index = open_index(folder)
    address = address_of(index.info)
    if address is None:
        return 0
    ids = row_ids(index.table)[np.asarray(rows, np.int64)].tolist()
    with connect(address) as connection:
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(hashtext(%s))", (f"{STORES}.{address.table}",))
            stored = read_stored(connection, address.table)
            if stored is None:
                return 0
            check_stored(stored, index.info["store"]["id"], address, index.info["model"])
            name = f"{address.table}_{stored.generation}"
            removed = connection.execute(f"delete from {name} where id = any(%s)", (ids,)).rowcount
            query = f"update {STORES} set version = %s where name = %s"
            connection.execute(query, (uuid.uuid4().hex, address.table))
        connection.execute(f"vacuum {name}")  # otherwise the deleted rows stay in its files
    return removed


def _digests(table: pa.Table, vectors: Float16[np.ndarray, "n e"]) -> Int64[np.ndarray, " n"]:
    """Computes a hash of each row with its vector, to find what differs."""
    digests = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        rows = zip(*(values.to_pylist() for values in table.slice(start, _BLOCK).columns), strict=True)
        contents = (repr(row).encode() + vector.tobytes() for row, vector in zip(rows, block, strict=True))
        digests[start : start + len(block)] = [hash_64(content) for content in contents]
    return digests


def exact_top_10(
    vectors: Float16[np.ndarray, "n e"], queries: Float[np.ndarray, "q e"]
) -> Int[np.ndarray, "q k"]:
    """Returns the rows of the 10 highest products of each query, in any order. Reads the vectors once."""
    best_scores = np.full((len(queries), RECALL_AT), -np.inf, np.float32)
    best_rows = np.zeros((len(queries), RECALL_AT), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float32)
        scores = np.concatenate([best_scores, queries @ block.T], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + len(block)), (len(queries), len(block)))
        rows = np.concatenate([best_rows, numbers], axis=1)
        chosen = np.argpartition(-scores, RECALL_AT - 1, axis=1)[:, :RECALL_AT]
        best_scores, best_rows = (np.take_along_axis(x, chosen, axis=1) for x in (scores, rows))
    return best_rows[:, : len(vectors)]
