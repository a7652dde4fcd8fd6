# SPDX-License-Identifier: Apache-2.0
"""The mint's database and its revisions, on both systems."""

import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import update

from arx_caps.cli import exit_codes
from arx_caps.mint.db import migrations
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.tables import METADATA
from arx_verifier.errors import SettingsError, StoreError
from tests.cli.helpers import arx
from tests.mint.schema import SCHEMA, schema
from tests.servers import BOTH, empty_database


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


def test_tables_do_not_change_without_a_step() -> None:
    """``schema.sql`` is what the last step leads to; ``python -m tests.mint.schema`` writes it, with a step."""
    assert SCHEMA.read_text(encoding="utf-8") == schema()


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
    threads = [threading.Thread(target=start, args=(both,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == [migrations.HEAD, "None"]


def test_a_database_of_a_newer_version_is_refused(url: str) -> None:
    """Neither an unknown revision nor tables without one are touched; the error says what to do."""
    with MintDatabase(url) as db:
        db.create()
        with db.write() as c:
            c.execute(update(migrations.VERSION).values(version_num="9999"))
        with pytest.raises(SettingsError, match=r"revision 9999.*update ARx"):
            db.create()
        with db.write() as c:
            migrations.VERSION.drop(c)
        with pytest.raises(SettingsError, match=r"no revision.*update ARx"):
            db.create()


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
