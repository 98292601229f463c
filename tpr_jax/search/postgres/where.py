"""Translates conditions on the columns of an index to SQL for PostgreSQL, with the answers of `where`.

The parser is that of `where`. Constants become parameters of the statement, never part of its text.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import pyarrow as pa

from tpr_jax.search.query.where import ArrowBackend, Value, translate

SQL_TYPES = {
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float64(): "double precision",
    pa.bool_(): "boolean",
    pa.string(): 'text collate "C"',  # compares bytes of UTF-8, as Arrow does
    pa.null(): 'text collate "C"',
    pa.timestamp("us"): "timestamp",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}
_SIGNS = {"==": "=", "!=": "<>"}


class Fragment(NamedTuple):
    """A part of a statement with `%s` for each of its parameters."""

    text: str
    values: tuple


class SqlBackend:
    """Translates a condition; see `where.Backend`.

    Args:
      schema: the columns of the index.
      names: column -> its name in the table, which consists of letters, digits and underscores.
    """

    def __init__(self, schema: pa.Schema, names: Mapping[str, str]):
        self.schema, self._names = schema, names

    def _column(self, name: str) -> str:
        return f'"{self._names[name]}"'

    def compare(self, name: str, sign: str, value: Value) -> Fragment:
        """Compares as `where.Backend.compare`."""
        column, sign = self._column(name), _SIGNS.get(sign, sign)
        if isinstance(value, str) and "\0" in value:
            return _compare_with_nul(column, sign, value)
        dtype = self.schema.field(name).type
        cast = "bigint" if pa.types.is_integer(dtype) else SQL_TYPES[dtype].split(" collate")[0]
        return Fragment(f"({column} {sign} %s::{cast})", (value,))

    def unknown(self) -> Fragment:
        """Returns null for each row."""
        return Fragment("null::boolean", ())

    def is_null(self, name: str) -> Fragment:
        """Returns whether a column has no value."""
        return Fragment(f"({self._column(name)} is null)", ())

    def like(self, name: str, pattern: str) -> Fragment:
        """Matches as `where.Backend.like`."""
        column = self._column(name)
        if "\0" in pattern:
            return Fragment(f"({column} <> {column})", ())
        return Fragment(f"({column} like %s::text escape '')", (pattern,))

    def join(self, word: Literal["and", "or"], left: Fragment, right: Fragment) -> Fragment:
        """Joins two conditions."""
        return Fragment(f"({left.text} {word} {right.text})", left.values + right.values)

    def invert(self, value: Fragment) -> Fragment:
        """Negates a condition."""
        return Fragment(f"(not {value.text})", value.values)


def _compare_with_nul(column: str, sign: str, value: str) -> Fragment:
    """Compares a column with a text with a NUL character, which no text in PostgreSQL has.

    A text below the constant is at most what precedes the NUL, and all others are above.
    """
    if sign in ("=", "<>"):
        return Fragment(f"({column} {'<>' if sign == '=' else '='} {column})", ())
    sign = "<=" if sign in ("<", "<=") else ">"
    return Fragment(f"({column} {sign} %s::text)", (value.partition("\0")[0],))


def where_sql(schema: pa.Schema, names: Mapping[str, str], condition: str) -> Fragment:
    """Returns a condition as SQL.

    Args:
      schema: the columns of the index.
      names: column -> its name in the table.
      condition: see `where`.

    Raises:
      UserError: what `where.matching` raises for a table of these columns.
    """
    translate(ArrowBackend(schema.empty_table()), condition)  # the errors of types that Arrow cannot compare
    return translate(SqlBackend(schema, names), condition)
