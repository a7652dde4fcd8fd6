# SPDX-License-Identifier: Apache-2.0
"""Write the mint's tables as SQL: ``python -m tests.mint.schema > tests/mint/schema.sql``, with a migration's step."""

from pathlib import Path
from typing import Final

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from arx_caps.mint.db.migrations import HEAD
from arx_caps.mint.db.tables import METADATA

SCHEMA: Final = Path(__file__).with_name("schema.sql")


def schema() -> str:
    """Return the statements that make the tables, as SQLite has them."""
    made = [f"-- revision {HEAD}"]
    for table in METADATA.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        for each in (CreateTable(table), *map(CreateIndex, indexes)):
            text = str(each.compile(dialect=sqlite.dialect())).strip()
            made.append("\n".join(line.rstrip().replace("\t", "  ") for line in text.splitlines()) + ";")
    return "\n".join(made) + "\n"


if __name__ == "__main__":
    print(schema(), end="")
