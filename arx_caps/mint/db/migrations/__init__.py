# SPDX-License-Identifier: Apache-2.0
"""The forms that the mint's database has had, and the way from each to the next.

A mint that starts brings its database into the form it knows, alone: a second one waits.  A database that was just made
gets the newest form at once; a test holds that to what the steps lead to.  There is no way back but a backup.
"""

from typing import Final

from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, String, Table, insert, inspect, select
from sqlalchemy.engine import Connection

from arx_caps.mint.db.tables import METADATA
from arx_verifier.errors import SettingsError

REVISIONS: Final = ("0001",)  # in their order
HEAD: Final = REVISIONS[-1]
LOCK: Final = 0x617278  # any number that nobody else locks in this database
NEWER: Final = "update ARx, or restore the backup that was made before it was updated"

# Where Alembic keeps the revision.
VERSION: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def revision(connection: Connection) -> str | None:
    """Return a database's revision, or None when there is nothing in it.

    Raises:
        SettingsError: It belongs to a version that is not known here.
    """
    there = set(inspect(connection).get_table_names())
    if VERSION.name in there:
        found = connection.execute(select(VERSION.c.version_num)).scalar()
        if found not in REVISIONS:
            raise SettingsError(f"the mint's database is of revision {found}, this version knows {HEAD}: {NEWER}")
        return str(found)
    if there.intersection(METADATA.tables):
        raise SettingsError(f"the mint's database has tables and no revision: this version knows {HEAD}; {NEWER}")
    return None


def migrate(connection: Connection) -> str | None:
    """Bring a database into the newest form, in a transaction that is open; nobody else does at the same time.

    Returns:
        The revision it had, or None when it was empty.

    Raises:
        SettingsError: It belongs to a version that is not known here.
    """
    if connection.dialect.name == "postgresql":
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
    """Take the steps from a database's revision, or from nothing, to the newest form."""
    # Only here: a start that finds everything as it should be does without Alembic and its templates.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "arx_caps.mint.db:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
