# SPDX-License-Identifier: Apache-2.0
"""The mint's and the log's tables as SQL, and the names of their schemas: a number and a digest.

``python -m tests.mint.schema`` writes ``schema.sql``, with a change of the tables and a greater number in the product.
"""

import hashlib
import sys
from pathlib import Path
from typing import Final

from sqlalchemy import MetaData
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from arx_caps.audit.store import tables as log_tables
from arx_caps.mint.db.migrations import HEAD
from arx_caps.mint.db.tables import METADATA

SCHEMA: Final = Path(__file__).with_name("schema.sql")
DIGITS: Final = 12  # of a digest


def statements(tables: MetaData, *, indexes: bool = True) -> str:
    """Return the statements that make tables, as SQLite has them."""
    made = []
    for table in tables.sorted_tables:
        named = sorted(table.indexes, key=lambda index: str(index.name)) if indexes else []
        for each in (CreateTable(table), *map(CreateIndex, named)):
            text = str(each.compile(dialect=sqlite.dialect())).strip()
            made.append("\n".join(line.rstrip().replace("\t", "  ") for line in text.splitlines()) + ";")
    return "\n".join(made) + "\n"


MINT: Final = statements(METADATA)
LOG: Final = statements(log_tables.METADATA, indexes=False)  # a start makes the indexes that a log lacks


def schema() -> str:
    """Return the text of ``schema.sql``: the tables of each database, after the name of their schema."""
    return f"-- mint {HEAD}\n{MINT}-- log {log_tables.SCHEMA}\n{LOG}"


def digest() -> str:
    """Return the digest that follows the number of the mint's schema."""
    return hashlib.sha256(MINT.encode()).hexdigest()[:DIGITS]


def wrong_names(written: str) -> list[str]:
    """Return what is wrong with the names of the schemas, against the text of an earlier ``schema.sql``."""
    wrong = []
    mint, _, log = written.partition("-- log ")
    for had, known, now in ((mint.removeprefix("-- mint "), HEAD, MINT), (log, log_tables.SCHEMA, LOG)):
        name, _, tables = had.partition("\n")
        if tables != now and int(known.partition("_")[0]) <= int(name.partition("_")[0]):
            wrong.append(f"{known}: the tables differ from those of {name}: give it a greater number")
    if not HEAD.endswith(f"_{digest()}"):
        wrong.append(f"{HEAD}: expected a greater number, and the digest of the tables, {digest()}")
    return wrong


if __name__ == "__main__":
    if refused := wrong_names(SCHEMA.read_text(encoding="utf-8")):
        sys.exit("\n".join(refused))
    SCHEMA.write_text(schema(), encoding="utf-8")
