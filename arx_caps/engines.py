# SPDX-License-Identifier: Apache-2.0
"""How a database is opened, SQLite or PostgreSQL, so that what was answered is kept; and what its failures are called.

Nothing here knows a table.  A transaction of SQLite takes its write lock at its beginning, unless it says ``READING``.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from arx_verifier.errors import GrantError, RequestError, SettingsError, StoreError

PASSWORD_VARIABLE: Final = "ARX_DATABASE_PASSWORD"  # noqa: S105 - its name, not its value
BUSY_S: Final = 5  # how long a writer waits for another one, or for a connection
STUCK_S: Final = 10  # a mint that stands still in a transaction must not stop the others for longer
CACHE_KIB: Final = 32 * 1024  # of a SQLite connection: what the indexes of a large log touch, again and again
WAL_PAGES: Final = 4096  # 16 MiB until SQLite carries its write-ahead log over: a page that many changes meet goes once
POOL: Final = 16  # connections that are kept, and as many more for a while; two mints fit into PostgreSQL's usual 100
READING: Final = "arx_reading"  # execution option: a transaction that takes no write lock


def open_engine(url: str) -> Engine:
    """Open a database.

    Args:
        url: SQLAlchemy's form, such as ``sqlite:////srv/acme/mint.db`` or ``postgresql://arx@db.example/arx``; its
            password may be in ``ARX_DATABASE_PASSWORD``.

    Raises:
        SettingsError: It names no database that this installation can open.
    """
    try:
        parts = make_url(url)
        if parts.drivername == "sqlite":
            settings: dict[str, Any] = {"connect_args": {"timeout": BUSY_S, "check_same_thread": False}}
            if parts.database and parts.database != ":memory:":
                settings["pool_use_lifo"] = True  # the connection that was used last still has its pages in memory
            engine = create_engine(parts, **settings)
            event.listen(engine, "connect", _on_sqlite_connect)
            event.listen(engine, "begin", _on_sqlite_begin)
            return engine
        if parts.drivername in ("postgresql", "postgresql+psycopg"):
            return _open_postgresql(parts)
    except ImportError:
        raise SettingsError("PostgreSQL needs its driver: install arx-caps[postgres]") from None
    except (ArgumentError, NoSuchModuleError, ValueError):
        pass
    # Said without the URL, which could hold a password.
    raise SettingsError("the mint's database is a URL: sqlite:///PATH or postgresql://USER@HOST/NAME")


def place_of(engine: Engine) -> str:
    """Say where a database is, as it may be shown: without a password."""
    url = engine.url
    hidden = [name for name in url.query if "password" in name]
    return url.difference_update_query(hidden).render_as_string(hide_password=True)


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """Give a database's failures our own names.

    Args:
        name: What it is called, such as "the mint's database".

    Raises:
        GrantError: ``conflict``: somebody else changed the same thing.
        RequestError: It cannot keep what it was given.
        StoreError: It did not answer.
    """
    try:
        yield
    except IntegrityError:
        raise GrantError("somebody else changed this at the same time; look again", code="conflict") from None
    except DataError:  # PostgreSQL keeps no zero character in a text
        raise RequestError("a text holds a character that cannot be kept") from None
    except SQLAlchemyError as error:
        # Its text would quote statement and values.
        refused = "certificate" in str(getattr(error, "orig", "")).lower()
        why = "its server's certificate was refused: see `sslrootcert` in its URL" if refused else type(error).__name__
        raise StoreError(f"{name} did not answer ({why})") from None


def _open_postgresql(url: URL) -> Engine:
    password = os.environ.get(PASSWORD_VARIABLE)
    if password and not url.password:
        url = url.set(password=password)
    settings: dict[str, Any] = {"connect_timeout": BUSY_S}
    if "options" not in url.query:
        settings["options"] = f"-c lock_timeout={BUSY_S}s -c idle_in_transaction_session_timeout={STUCK_S}s"
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args=settings,
        pool_pre_ping=True,
        pool_size=POOL,
        max_overflow=POOL,
        pool_timeout=BUSY_S,
    )


def _on_sqlite_connect(connection: Any, record: Any) -> None:
    # The driver would begin transactions by its own rules, and late: BEGIN is said below.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # what was answered survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    cursor.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
    path = cursor.execute("PRAGMA database_list").fetchone()[2]
    cursor.close()
    record.info["file"] = (path, Path(path).stat()) if path else None


def _on_sqlite_begin(connection: Connection) -> None:
    _require_in_place(connection.info.get("file"))
    # IMMEDIATE: a transaction that reads first and writes later could otherwise fail in its middle.
    reading = connection.get_execution_options().get(READING)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _require_in_place(file: tuple[str, os.stat_result] | None) -> None:
    """Refuse a file that was moved away or removed: what is written there would be gone with the process."""
    if file is None:
        return
    path, opened = file
    with contextlib.suppress(OSError):
        if os.path.samestat(Path(path).stat(), opened):
            return
    raise StoreError(f"the database {path} was moved away or removed; put it back, or restart the mint")
