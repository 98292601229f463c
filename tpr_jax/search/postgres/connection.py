"""Addresses of PostgreSQL databases, connections to them, and their errors in one line."""

import contextlib
import re
from collections.abc import Generator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from tpr_jax.errors import UserError

STORES = "tpr_jax_stores"
DEFAULT_TABLE = "tpr_jax_photos"
MIN_PGVECTOR = (0, 8)  # the first with iterative scans, which search until enough rows meet a filter
_CONNECT_SECONDS = 10


def driver() -> ModuleType:
    """Imports psycopg, which is optional.

    Raises:
      UserError: it, or pgvector's Python package, is not installed.
    """
    try:
        import pgvector.psycopg  # noqa: F401
        import psycopg
    except ImportError:
        raise UserError(
            "--store postgresql://... needs psycopg and pgvector: pip install -r requirements-postgres.txt"
        ) from None
    return psycopg


@dataclass(frozen=True)
class Address:
    """Where an index is stored.

    Attributes:
      url: the address without password and table.
      table: the name of the table.
      password: the password of the URL; None means PGPASSWORD, ~/.pgpass, or none.
    """

    url: str
    table: str = DEFAULT_TABLE
    password: str | None = None

    def __str__(self) -> str:
        """Returns the address as messages show it, without the password."""
        return self.url


def parse_address(text: str) -> Address:
    """Parses postgresql://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE[?table=NAME].

    Raises:
      UserError: it is not such an address.
    """
    expected = "write postgresql://USER@HOST/DATABASE, or with ?table=NAME at its end"
    try:
        parts = urlsplit(text)
        port, password = parts.port, parts.password
    except ValueError:
        raise UserError(f"--store: has no valid host and port; {expected}") from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise UserError(f"--store: has to begin with postgresql://; {expected}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    password = options.pop("password", None) or (unquote(password) if password else None)
    table = options.pop("table", DEFAULT_TABLE)
    if not re.fullmatch("[a-z_][a-z0-9_]{0,39}", table) or table == STORES:
        raise UserError(
            f"--store: table={table[:60]!r} must have 1 to 40 of a-z, 0-9 and _, not a digit first, and not "
            f"be {STORES}"
        )
    user = f"{parts.username}@" if parts.username else ""
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    place = f"{user}{host}" + (f":{port}" if port else "")
    url = urlunsplit(
        ("postgresql", place, parts.path or "/", urlencode(options, quote_via=quote, safe="/"), "")
    )
    # Without host and user, urlunsplit leaves the slashes out.
    url = url if url.startswith("postgresql://") else url.replace("postgresql:", "postgresql://", 1)
    return Address(url, table, password)


@contextlib.contextmanager
def connect(address: Address) -> Generator[Any]:
    """Opens a connection that can send and receive vectors, and closes it.

    Raises:
      UserError: the server cannot be reached or refuses, or lacks pgvector.
    """
    connection = open_connection(address)
    try:
        with explained(address):
            yield connection
    finally:
        connection.close()


def open_connection(address: Address) -> Any:
    """Opens a connection in autocommit mode; `connect` describes the rest."""
    psycopg = driver()
    from pgvector.psycopg import register_vector

    password = {"password": address.password} if address.password else {}
    with explained(address):
        connection = psycopg.connect(
            address.url,
            autocommit=True,
            prepare_threshold=None,  # a plan for any value would not know how many rows meet a condition
            connect_timeout=_CONNECT_SECONDS,
            fallback_application_name="tpr_jax",
            **password,
        )
        try:
            _require_vector(connection, address)
            register_vector(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _require_vector(connection: Any, address: Address) -> None:
    """Creates the extension if the database lacks it. Raises UserError."""
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise UserError(
            f"{address}: the database is not in UTF-8: createdb --encoding UTF8 --template template0"
        )
    query = "select extversion from pg_extension where extname = 'vector'"
    found = connection.execute(query).fetchone()
    if found is None:
        connection.execute("create extension if not exists vector")
        found = connection.execute(query).fetchone()
    version = tuple(int(number) for number in re.findall(r"\d+", found[0])[:2])
    if version < MIN_PGVECTOR:
        raise UserError(
            f"{address}: has pgvector {found[0]}, and 0.8 is needed: install it, then run "
            "ALTER EXTENSION vector UPDATE in the database"
        )


@contextlib.contextmanager
def explained(address: Address) -> Generator[None]:
    """Turns the errors of the database into a UserError of one line with the remedy."""
    psycopg = driver()
    try:
        yield
    except psycopg.Error as error:
        raise UserError(_explain(error, address)) from error


# Part of PostgreSQL's message, or its code -> the remedy.
_REMEDIES = (
    ("password authentication failed", "wrong password: set PGPASSWORD, or correct ~/.pgpass or the URL"),
    ("no password supplied", "needs a password: set PGPASSWORD, or add the server to ~/.pgpass"),
    ('extension "vector" is not available', "the server has no pgvector: install Debian's "
     "postgresql-NN-pgvector there, or use the image pgvector/pgvector"),
    ("permission denied to create extension", "ask an administrator to run CREATE EXTENSION vector there"),
    ("permission denied for", "the user may not do this: GRANT it the rights, or use another user"),
    ("No space left on device", "the server's disk or shared memory is full: free some, or start its "
     "container with --shm-size=2g"),
)  # fmt: skip


def _explain(error: Exception, address: Address) -> str:
    reason = " ".join(str(error).split())
    for part, remedy in _REMEDIES:
        if part.lower() in reason.lower():
            return f"{address}: {remedy}"
    if found := re.search(r'database "([^"]*)" does not exist', reason):
        return f'{address}: has no database "{found[1]}": createdb {found[1]}'
    if found := re.search(r'role "([^"]*)" does not exist', reason):
        return f'{address}: has no user "{found[1]}": createuser {found[1]}, or name another one in the URL'
    if isinstance(error, driver().OperationalError):
        return f"{address}: cannot be reached ({reason[:200]}): start the server, or check host and port"
    return f"{address}: PostgreSQL reports: {reason[:300]}"
