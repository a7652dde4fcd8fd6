# SPDX-License-Identifier: Apache-2.0
"""One of two mints that started together on a new SQLite file could end with ``the database did not answer``.

SQLite turns its write-ahead log on without a wait for others, so the second mint was refused at once.
"""

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from arx_caps.database.engines import open_engine


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    """A connection to a new file that another one writes to is made when that one ends."""
    file = tmp_path / "mint.db"
    engine = open_engine(f"sqlite:///{file}")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as first, ThreadPoolExecutor(1) as pool:
        first.execute("BEGIN IMMEDIATE")
        first.execute("CREATE TABLE made (id INTEGER)")
        second = pool.submit(engine.connect)
        with contextlib.suppress(TimeoutError):
            second.result(0.3)
        first.execute("COMMIT")
        with second.result() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()
