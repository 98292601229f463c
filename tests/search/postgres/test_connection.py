"""Addresses, and one line with the remedy for each error."""

import builtins

import pytest

from tests import postgres_server
from tpr_jax.errors import UserError
from tpr_jax.search.postgres import connection as connections
from tpr_jax.search.postgres.connection import Address, connect, driver, parse_address


@pytest.mark.parametrize(
    ("text", "url", "table", "password"),
    [
        ("postgresql://me@db.org/people", "postgresql://me@db.org/people", "tpr_jax_photos", None),
        ("postgres://me:p%40w@db:5433/a?table=b", "postgresql://me@db:5433/a", "b", "p@w"),
        ("postgresql:///a?host=/tmp/x&password=w", "postgresql:///a?host=/tmp/x", "tpr_jax_photos", "w"),
        (
            "postgresql://[::1]:1/a?sslmode=require",
            "postgresql://[::1]:1/a?sslmode=require",
            "tpr_jax_photos",
            None,
        ),
        ("postgresql://db", "postgresql://db/", "tpr_jax_photos", None),
    ],
)
def test_addresses(text, url, table, password):
    assert parse_address(text) == Address(url, table, password)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mysql://a/b", "has to begin with postgresql://"),
        ("people", "has to begin with postgresql://"),
        ("postgresql://db:port/a", "has no valid host and port"),
        ("postgresql://db/a?table=x;drop", "must have 1 to 40 of a-z"),
        ("postgresql://db/a?table=" + "x" * 41, "must have 1 to 40 of a-z"),
        ("postgresql://db/a?table=tpr_jax_stores", "not be tpr_jax_stores"),
    ],
)
def test_wrong_addresses(text, message):
    with pytest.raises(UserError, match=message) as error:
        parse_address(text)
    assert str(error.value).startswith("--store: ") and "\n" not in str(error.value)


def check(address: Address, message: str) -> None:
    with pytest.raises(UserError, match=message) as error, connect(address):
        pass
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{address}: ")


def test_unreachable_servers(server, tmp_path):
    check(Address(f"postgresql:///a?host={tmp_path}"), "cannot be reached .*: start the server, or check")
    check(Address("postgresql://no-such-host.invalid/a"), "cannot be reached .*: start the server, or check")


def test_no_such_database_or_user(server):
    check(Address(server.replace("/people", "/nobody")), 'has no database "nobody": createdb nobody')
    user = server.partition("//")[2].partition("@")[0]
    check(Address(server.replace(f"//{user}@", "//stranger@")), 'has no user "stranger": createuser stranger')


def test_wrong_and_missing_password(server, monkeypatch):
    import psycopg

    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", "/nonexistent")
    with psycopg.connect(server, autocommit=True) as connection:
        (file,) = connection.execute("show hba_file").fetchone()
        connection.execute("create user guest password 'right'")
        rules = connection.execute("select pg_read_file(%s)", (file,)).fetchone()[0]
        user = connection.info.user

        def write(text):
            connection.execute("create temporary table if not exists hba (line text)")
            connection.execute("truncate hba")
            for line in text.splitlines():
                connection.execute("insert into hba values (%s)", (line,))
            connection.execute(psycopg.sql.SQL("copy hba to {} with (delimiter e'\\x01')").format(file))
            connection.execute("select pg_reload_conf()")

        write("local all guest scram-sha-256\n" + rules)
        try:
            guest = server.replace(f"//{user}@", "//guest@")
            check(Address(guest), "needs a password: set PGPASSWORD")
            check(Address(guest, password="wrong"), "wrong password: set PGPASSWORD")
            # The right one, from the URL and from the environment; pgvector is there already or refused.
            connection.execute("create extension if not exists vector")
            with connect(parse_address(guest.replace("guest@", "guest:right@"))):
                pass
            monkeypatch.setenv("PGPASSWORD", "right")
            with connect(Address(guest)):
                pass
            connection.execute("drop extension vector cascade")
            check(Address(guest), "ask an administrator to run CREATE EXTENSION vector")
        finally:
            write(rules)
            connection.execute("drop user guest")


def test_a_server_without_the_extension(url):
    import psycopg

    with pytest.raises(psycopg.errors.FeatureNotSupported) as error, psycopg.connect(url) as connection:
        connection.execute("create extension no_such_extension")
    # The server's own words, about vector.
    line = connections._explain(
        type(error.value)(str(error.value).replace("no_such_extension", "vector")), Address(url)
    )
    assert "the server has no pgvector: install Debian's postgresql-NN-pgvector" in line and "\n" not in line


def test_an_old_extension(url, monkeypatch):
    monkeypatch.setattr(connections, "MIN_PGVECTOR", (99, 0))
    check(Address(url), "has pgvector 0.* ALTER EXTENSION vector UPDATE")


def test_without_the_driver(monkeypatch):
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name.startswith("psycopg"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(UserError, match=r"pip install -r requirements-postgres\.txt"):
        driver()


def test_the_tests_say_why_they_are_skipped(monkeypatch, tmp_path):
    monkeypatch.setenv("TPR_POSTGRES", str(tmp_path))
    assert postgres_server.programs() is None and "apt install" in postgres_server.MISSING
