"""A server for the tests of this folder, once per process, and an empty database for each test module."""

import pytest

from tests import postgres_server


@pytest.fixture(scope="session")
def server():
    pytest.importorskip("psycopg", reason="pip install -r requirements-postgres.txt")
    pytest.importorskip("pgvector", reason="pip install -r requirements-postgres.txt")
    folder = postgres_server.programs()
    if folder is None:
        pytest.skip(postgres_server.MISSING)
    with postgres_server.running(folder, "-c shared_buffers=256MB") as url:
        yield url


@pytest.fixture
def url(server):
    """The address of a database without tables."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
        connection.execute("drop extension if exists vector")
    return server
