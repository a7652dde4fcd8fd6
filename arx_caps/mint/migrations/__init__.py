# SPDX-License-Identifier: Apache-2.0
"""The forms that the mint's database has had, and the way from each to the next.

A mint that starts brings its database into the form it knows, alone: a second one waits.  A database that was just made
gets the newest form at once; a test holds that to what the steps lead to.  There is no way back but a backup.
"""

from typing import Final

from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, String, Table, insert, inspect, select
from sqlalchemy.engine import Connection

from arx_caps.mint.tables import META, METADATA
from arx_verifier.errors import SettingsError

FOUNDATION: Final = "0001"
CONTROL_PLANE: Final = "0002"
SERVICES: Final = "0003"
RENEWAL: Final = "0004"
KEYS: Final = "0005"
LISTS: Final = "0006"
POLICIES: Final = "0007"
GRANTS: Final = "0008"
QUESTIONS: Final = "0009"
TEMPLATES: Final = "0010"
SUBJECTS: Final = "0011"
APPROVALS: Final = "0012"
BANS: Final = "0013"
REVISIONS: Final = (
    FOUNDATION,
    CONTROL_PLANE,
    SERVICES,
    RENEWAL,
    KEYS,
    LISTS,
    POLICIES,
    GRANTS,
    QUESTIONS,
    TEMPLATES,
    SUBJECTS,
    APPROVALS,
    BANS,
)  # in their order
HEAD: Final = REVISIONS[-1]
# Versions that know no revisions look at this name in META, and refuse any other value than 1.
SCHEMA: Final = "schema"
OLD_SCHEMA: Final = "1"
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
    if META.name not in there:
        return None
    schema = connection.execute(select(META.c.value).where(META.c.name == SCHEMA)).scalar()
    if schema != OLD_SCHEMA:
        raise SettingsError(f"the mint's database has schema {schema}, this version knows revision {HEAD}: {NEWER}")
    return FOUNDATION


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
        connection.execute(insert(META).values(name=SCHEMA, value=HEAD))
        return None
    _upgrade(connection, before)
    return before


def _upgrade(connection: Connection, before: str) -> None:
    # Only here: a start that finds everything as it should be does without Alembic and its templates.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "arx_caps.mint:migrations")
    config.attributes["connection"] = connection
    if before == FOUNDATION and not inspect(connection).has_table(VERSION.name):
        command.stamp(config, FOUNDATION)
    command.upgrade(config, HEAD)
