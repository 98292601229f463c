"""What a database has of an index: its table, its columns and its version."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from tpr_jax.errors import UserError
from tpr_jax.search.index.store import boxes
from tpr_jax.search.postgres.connection import STORES, Address, connect, parse_address
from tpr_jax.search.postgres.where import SQL_TYPES

FORMAT = 1
_RESERVED = {"id", "digest", "embedding"}


class Stored(NamedTuple):
    """A row of `tpr_jax_stores`; see `CREATE_STORES`."""

    id: str
    version: str
    generation: int
    model_sha256: str
    width: int
    columns: Mapping[str, Sequence[str]]
    candidates: int | None
    recall: float | None


CREATE_STORES = f"""create table if not exists {STORES} (
  name text primary key,        -- the table of photos is called NAME_GENERATION
  format integer not null,
  id text not null,             -- of the index's folder
  version text not null,        -- changes with every update
  generation integer not null,
  model_sha256 text not null,
  width integer not null,
  columns jsonb not null,       -- the index's column -> [the table's column, its type]
  candidates integer,            -- candidates of a search; null without an HNSW index
  recall double precision       -- at 10, measured with it
)"""


def read_stored(connection: Any, table: str) -> Stored | None:
    """Returns what a database has of a table, None for nothing."""
    if connection.execute("select to_regclass(%s)", (STORES,)).fetchone()[0] is None:
        return None
    names = ", ".join(Stored._fields)
    row = connection.execute(f"select format, {names} from {STORES} where name = %s", (table,)).fetchone()
    if row is None:
        return None
    if row[0] != FORMAT:
        raise UserError(
            f"table {table}: is of format {row[0]}, but this version of tpr_jax reads {FORMAT}: name another "
            "table with ?table=NAME, or use the version of tpr_jax that made it"
        )
    return Stored(*row[1:])


def check_stored(stored: Stored | None, index_id: str | None, address: Address, model: Mapping) -> None:
    """Checks that a table is of this index.

    Args:
      stored: what the database has of it.
      index_id: the identifier of the index's store; None if it has none yet.
      address: where it is.
      model: the field `model` of the index's `index.json`; empty for an index that is still to be made.

    Raises:
      UserError: it is of another index, model or width.
    """
    if stored is None:
        return
    remedy = f"name another table with ?table=NAME, or remove it with DROP TABLE {address.table}_" + (
        f"{stored.generation} and DELETE FROM {STORES} WHERE name = '{address.table}'"
    )
    if model and stored.width != model["embed_dim"]:
        raise UserError(
            f"{address}: table {address.table} has vectors of {stored.width} numbers, and the index of "
            f"{model['embed_dim']}: {remedy}"
        )
    if model and stored.model_sha256 != model["sha256"]:
        raise UserError(
            f"{address}: table {address.table} was made with another model, "
            f"{stored.model_sha256[:12]}...: {remedy}"
        )
    if stored.id != index_id:
        raise UserError(f"{address}: table {address.table} is of another index: {remedy}")


def address_of(info: Mapping) -> Address | None:
    """Returns the address in an index's `index.json`, None if it is only in its folder."""
    found = info.get("store")
    return Address(found["url"], found["table"]) if found else None


def check(url: str, info: Mapping | None) -> None:
    """Checks a store before photos are encoded for it.

    Args:
      url: the address.
      info: the index's `index.json`, None if it is still to be made.

    Raises:
      UserError: the store cannot be used for this index.
    """
    address, info = parse_address(url), info or {}
    with connect(address) as connection:
        stored = read_stored(connection, address.table)
        check_stored(stored, id_for(info, address), address, info.get("model", {}))


def id_for(info: Mapping, address: Address) -> str | None:
    """Returns the identifier of an index in a store; None if it is not there yet."""
    found = info.get("store") or {}
    return found.get("id") if address_of(info) == Address(address.url, address.table) else None


def row_ids(table: pa.Table) -> Int64[np.ndarray, " n"]:
    """Computes the identifier of each row: a hash of its path and box, which tell photos apart."""
    keys = zip(table["path"].to_pylist(), boxes(table), strict=True)
    return np.fromiter((hash_64(repr(key).encode()) for key in keys), np.int64, table.num_rows)


def hash_64(content: bytes) -> int:
    """Computes a hash that fits PostgreSQL's bigint."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)


def table_columns(schema: pa.Schema) -> dict[str, tuple[str, str]]:
    """Returns column of the index -> (column of the table, its type).

    The names are the same, unless a name is long, not a plain word, or taken.
    """
    plain = {name for name in schema.names if re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,59}", name)} - _RESERVED
    free = (name for name in (f"c{i}" for i in range(2 * len(schema) + 1)) if name not in plain)
    return {
        field.name: (field.name if field.name in plain else next(free), SQL_TYPES[field.type])
        for field in schema
    }
