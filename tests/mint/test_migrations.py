# SPDX-License-Identifier: Apache-2.0
"""The mint's database and its revisions, on both systems."""

import threading
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, update

from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import META
from arx_caps.cli import exit_codes
from arx_caps.database.engines import NEWER, OLDER
from arx_caps.mint.db import migrations
from arx_caps.mint.db.migrations import HEAD
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.tables import AGENTS, METADATA
from arx_verifier.errors import SettingsError, StoreError
from tests.cli.helpers import arx
from tests.mint.schema import SCHEMA, schema, wrong_names
from tests.servers import BOTH, empty_database, run_together


@pytest.fixture(params=BOTH)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with nothing in it."""
    yield from empty_database(request, tmp_path / "mint.db")


def differences(db: MintDatabase) -> list[object]:
    with db.read() as c:
        context = MigrationContext.configure(c, opts={"compare_type": True})
        return [each for each in compare_metadata(context, METADATA) if each]


def test_the_steps_lead_to_the_tables(url: str) -> None:
    """A database that was brought here step by step has the very tables, columns, keys and indexes of a new one."""
    with MintDatabase(url) as db:
        with db.altering() as c:
            migrations.upgrade(c)
        assert differences(db) == []
        assert db.create() == migrations.HEAD


@pytest.mark.parametrize("before", migrations.REVISIONS[:-1])
def test_a_database_of_an_earlier_revision_is_migrated(url: str, before: str) -> None:
    """A start brings it to the tables of a new one, and keeps its rows."""
    with MintDatabase(url) as db:
        with db.altering() as c:
            config = Config()
            config.set_main_option("script_location", "arx_caps.mint.db:migrations")
            config.attributes["connection"] = c
            command.upgrade(config, before)
            c.execute(insert(AGENTS), {"path": "acme/a", "status": "active", "metadata": "{}", "created_at": 1})
        assert db.create() == before
        assert differences(db) == []
        assert db.revision() == HEAD
        assert db.agents.find("acme/a") is not None


def test_tables_do_not_change_without_a_greater_number() -> None:
    """
    ``schema.sql`` has the tables of the last numbers, the mint's with their digest; another table needs a greater one.
    """
    written = SCHEMA.read_text(encoding="utf-8")
    assert written == schema()
    assert wrong_names(written) == []
    earlier = written.replace("CREATE TABLE agents (", "CREATE TABLE agents (\n  extra TEXT,")
    assert wrong_names(earlier) == [f"{HEAD}: the tables differ from those of {HEAD}: give it a greater number"]
    assert wrong_names(earlier.replace(HEAD, "0012_000000000000")) == []
    [of_the_log] = wrong_names(written.replace("CREATE TABLE log_meta (", "CREATE TABLE log_meta (\n  extra TEXT,"))
    assert "give it a greater number" in of_the_log


def test_a_new_database_is_at_the_head(url: str) -> None:
    """What is made at once is what the steps lead to, and a second start changes nothing."""
    with MintDatabase(url) as db:
        assert db.revision() is None
        assert db.create() is None
        assert differences(db) == []
        assert db.create() == migrations.HEAD


def test_the_list_of_revisions_is_that_of_the_steps() -> None:
    """A start that finds the last revision asks Alembic nothing, so both must name the same one."""
    config = Config()
    config.set_main_option("script_location", "arx_caps.mint.db:migrations")
    steps = [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(steps)) == migrations.REVISIONS


def test_two_mints_that_start_at_once_make_the_tables_once(url: str) -> None:
    """The second one waits and finds it done."""
    found: list[str | None] = []

    def start(barrier: threading.Barrier) -> None:
        with MintDatabase(url) as db:
            barrier.wait()
            found.append(db.create())

    both = threading.Barrier(2)
    run_together(*(partial(start, both) for _ in range(2)))
    assert sorted(map(str, found)) == [migrations.HEAD, "None"]


@pytest.mark.parametrize(
    ("revision", "made", "hint"),
    [
        ("9999", "a newer version", NEWER),
        (f"{int(HEAD[:4]) + 1:04}_0123456789ab", "a newer version", NEWER),
        (HEAD.replace("_", "_0"), "an older version that this one cannot read", OLDER),
        ("0012", "an older version that this one cannot read", OLDER),
        ("0001", "an older version that this one cannot read", OLDER),
        ("other", "an older version that this one cannot read", OLDER),
    ],
)
def test_a_database_of_another_version_is_refused(url: str, revision: str, made: str, hint: str) -> None:
    """An unknown revision is not touched; the error names the older side, and the hint what to do."""
    with MintDatabase(url) as db:
        db.create()
        with db.write() as c:
            c.execute(update(migrations.VERSION).values(version_num=revision))
        with pytest.raises(
            SettingsError, match=rf"revision {revision}, .* needs {HEAD}: it was made by {made}"
        ) as refusal:
            db.create()
        assert refusal.value.hint == hint
        checked = arx("mint", "migrate", "--check", env={"ARX_DATABASE": url})
        assert checked.exit_code == exit_codes.USAGE
        assert made in checked.err
        assert hint in checked.err


def test_tables_without_a_revision_are_refused(url: str) -> None:
    """They are not touched."""
    with MintDatabase(url) as db:
        db.create()
        with db.write() as c:
            migrations.VERSION.drop(c)
        with pytest.raises(SettingsError, match=r"no revision.*restore a backup"):
            db.create()


@pytest.mark.parametrize(
    ("number", "made"), [("2", "an older version that this one cannot read"), ("9", "a newer version")]
)
def test_a_log_of_another_version_is_refused(url: str, number: str, made: str) -> None:
    """Its error names the older side as that of the mint's database does."""
    with LogStore(url) as log:
        log.create()
        with log.writing() as writing:
            writing.connection.execute(update(META).where(META.c.name == "schema").values(value=number))
        with pytest.raises(SettingsError, match=rf"schema {number}, .* it was made by {made}"):
            log.create()


def test_a_step_that_fails_changes_nothing(url: str) -> None:
    """With an error in its middle the database is as it was, and a later start goes the whole way."""
    name = sorted(str(index.name) for table in METADATA.tables.values() for index in table.indexes)[-1]
    with MintDatabase(url) as db:
        with db.write() as c:
            c.exec_driver_sql("CREATE TABLE other (id INTEGER)")
            c.exec_driver_sql(f"CREATE INDEX {name} ON other (id)")  # a database has one index of a name
        with pytest.raises(StoreError):
            db.create()
        assert db.revision() is None
        with db.write() as c:
            c.exec_driver_sql("DROP TABLE other")
        assert db.create() is None
        assert differences(db) == []


def test_operators_can_do_it_themselves(url: str) -> None:
    """``arx mint migrate`` says what there is to do, does it, and finds nothing more to do."""
    checked = arx("mint", "migrate", "--check", "--json", env={"ARX_DATABASE": url})
    assert (checked.exit_code, checked.json["now"]) == (exit_codes.DENIED, None)
    done = arx("mint", "migrate", "--json", env={"ARX_DATABASE": url})
    assert (done.exit_code, done.json["before"], done.json["now"]) == (0, None, migrations.HEAD)
    assert arx("mint", "migrate", "--check", env={"ARX_DATABASE": url}).exit_code == exit_codes.OK


def test_the_steps_are_part_of_what_is_installed() -> None:
    """The steps are found where the package is, and nowhere else."""
    steps = files("arx_caps.mint.db.migrations").joinpath("versions")
    assert len([step for step in steps.iterdir() if step.name.startswith("r")]) == len(migrations.REVISIONS)
