# SPDX-License-Identifier: Apache-2.0
"""The revisions of the mint's schema, and the migration from each to the next."""

from typing import Final

from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, String, Table, insert, inspect, select
from sqlalchemy.engine import Connection

from arx_caps.database.engines import other_version
from arx_caps.mint.db.tables import METADATA
from arx_verifier.errors import SettingsError

# There is no way back but a backup: a downgrade would have to invent what the older schema knew.
# The oldest first.  A number grows with each change of the tables, and the digest of the tables follows it
# (``tests/mint/schema.py``): a database with other tables is refused, also one of a version between two releases.
REVISIONS: Final = ("0015_c80ccfc76a37", "0016_33a0f967666d", "0017_b1964f2f4359")
HEAD: Final = REVISIONS[-1]
LOCK: Final = 0x617278  # of an advisory lock; no other part of ARx uses this number

# Where Alembic keeps the revision.
VERSION: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def revision(connection: Connection) -> str | None:
    """Return a database's revision, or None if the database is empty.

    Raises:
        SettingsError: An older version that this one cannot read, or a newer one, made the database.
    """
    there = set(inspect(connection).get_table_names())
    if VERSION.name in there:
        found = connection.execute(select(VERSION.c.version_num)).scalar()
        if found not in REVISIONS:
            raise other_version("the mint's database is of revision", str(found), HEAD)
        return str(found)
    if there.intersection(METADATA.tables):
        raise SettingsError(
            f"the mint's database has tables and no revision, this version needs {HEAD}: restore a backup of it"
        )
    return None


def migrate(connection: Connection) -> str | None:
    """Migrate a database to the newest revision, in an open transaction.

    Returns:
        The revision before; None if the database was empty.

    Raises:
        SettingsError: An older version that this one cannot read, or a newer one, made the database.
    """
    if connection.dialect.name == "postgresql":
        # Two mints that start at the same moment: the second waits, and then finds the work done.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
    before = revision(connection)
    if before == HEAD:
        return before
    if before is None:
        METADATA.create_all(connection)
        VERSION.create(connection)
        connection.execute(insert(VERSION).values(version_num=HEAD))
        return None
    upgrade(connection)
    return before


def upgrade(connection: Connection) -> None:
    """Run the migrations from a database's revision, or from nothing, to the newest."""
    # Imported here: a start that has nothing to migrate needs no Alembic and no templates.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "arx_caps.mint.db:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
