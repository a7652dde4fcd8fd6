# SPDX-License-Identifier: Apache-2.0
"""The mint's database through its versions: from the first form to this one, on both systems, with what is in it."""

import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, update

from arx_caps.cli import exits
from arx_caps.mint import migrations
from arx_caps.mint.events import Event
from arx_caps.mint.state import HighWater, State
from arx_caps.mint.tables import META, METADATA
from arx_verifier.errors import SettingsError
from tests.cli.helpers import arx
from tests.servers import BOTH, empty_database

FOUNDATION = Path(__file__).with_name("foundation.sql").read_text(encoding="utf-8")
AGENT = "acme/support/triage"


@pytest.fixture(params=BOTH)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with nothing in it."""
    yield from empty_database(request, tmp_path / "mint.db")


@pytest.fixture
def old(url: str) -> str:
    """A database of the first form, with rows."""
    with State(url) as state, state.write() as c:
        for statement in FOUNDATION.partition("\n")[2].split(";\n"):
            if statement.strip():
                c.exec_driver_sql(statement)
    return url


def differences(state: State) -> list[object]:
    with state.read() as c:
        context = MigrationContext.configure(c, opts={"compare_type": True})
        return [each for each in compare_metadata(context, METADATA) if each]


def test_the_steps_lead_to_the_tables(old: str) -> None:
    """A database that was brought here step by step has the very tables, columns, keys and indexes of a new one."""
    with State(old) as state:
        assert state.revision() == migrations.FOUNDATION
        assert state.create() == migrations.FOUNDATION
        assert differences(state) == []
        assert state.revision() == migrations.HEAD


def test_a_new_database_is_at_the_head(url: str) -> None:
    """What is made at once is what the steps lead to, and a second start changes nothing."""
    with State(url) as state:
        assert state.revision() is None
        assert state.create() is None
        assert differences(state) == []
        assert state.create() == migrations.HEAD


def test_the_list_of_revisions_is_that_of_the_steps() -> None:
    """A start that finds the last revision asks Alembic nothing, so both must name the same one."""
    config = Config()
    config.set_main_option("script_location", "arx_caps.mint:migrations")
    steps = [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(steps)) == migrations.REVISIONS


def test_the_first_step_is_the_first_form(old: str, tmp_path: Path) -> None:
    """The first revision's own step makes what the first version made."""
    from alembic import command

    config = Config()
    config.set_main_option("script_location", "arx_caps.mint:migrations")
    with State(f"sqlite:///{tmp_path}/stepped.db") as stepped, stepped.altering() as c:
        config.attributes["connection"] = c
        command.upgrade(config, migrations.FOUNDATION)
        made = shape(c)
    with State(old) as state, state.read() as c:
        assert shape(c) == made


def shape(connection: object) -> dict[str, object]:
    found = inspect(connection)
    return {
        table: (
            [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(table)],
            found.get_pk_constraint(table)["constrained_columns"],
            sorted((index["name"], tuple(index["column_names"])) for index in found.get_indexes(table)),
            [(key["constrained_columns"], key["referred_table"]) for key in found.get_foreign_keys(table)],
        )
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def test_what_is_there_stays(old: str) -> None:
    """Every row of the first form is there afterwards, and goes on being used."""
    with State(old) as state:
        state.create()
        assert [agent["status"] for agent in state.agents()] == ["deactivated", "active"]
        assert len(state.kids(AGENT)) == 2
        assert state.operator("root") is not None
        session = state.session("s-aaaaaaaaaaaaaaaa")
        assert session is not None
        assert (session["status"], session["purpose"], session["born"]) == ("open", "look", 3)
        assert {task["status"] for task in state.tasks(session=session["id"])} == {"open", "ended"}
        rows = state.key_rows()
        assert [(row.audience, row.n) for row in rows.numbers] == [("orders", 0)]
        assert [(row.holder_key, row.kids) for row in rows.fetches] == [("file:orders", '["k1.0"]')]
        assert state.high_water("acme") == HighWater("A" * 22, 4, max_ttl_ms=86_400_000)
        state.end_session(session["id"], Event.of("session.ended", "mint", session=session["id"]))
        assert {task["status"] for task in state.tasks(session=session["id"])} == {"ended"}
        assert [event.kind for event in state.outbox.after(0)] == ["session.ended"]


def test_two_mints_that_start_at_once_migrate_once(old: str) -> None:
    """Whoever comes second waits and finds it done."""
    found: list[str | None] = []

    def start(barrier: threading.Barrier) -> None:
        with State(old) as state:
            barrier.wait()
            found.append(state.create())

    both = threading.Barrier(2)
    threads = [threading.Thread(target=start, args=(both,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == [migrations.FOUNDATION, migrations.HEAD]


def test_a_database_of_a_newer_version_is_refused(url: str) -> None:
    """Neither an unknown revision nor an unknown schema is touched; the error says what to do."""
    with State(url) as state:
        state.create()
        with state.write() as c:
            c.execute(update(migrations.VERSION).values(version_num="9999"))
        with pytest.raises(SettingsError, match=r"revision 9999.*update ARx"):
            state.create()
        with state.write() as c:
            migrations.VERSION.drop(c)
            c.execute(update(META).values(value="99"))
        with pytest.raises(SettingsError, match=r"schema 99.*update ARx"):
            state.create()


def test_an_older_version_refuses_this_form(old: str) -> None:
    """The first version looks at one value alone; it is not the one it knows, so it does not start."""
    with State(old) as state:
        state.create()
        with state.read() as c:
            assert c.execute(META.select().where(META.c.name == "schema")).one().value != migrations.OLD_SCHEMA


def test_a_step_that_fails_changes_nothing(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error in its middle the database is as it was, and a later start goes the whole way."""
    with State(old) as state:
        with state.write() as c:
            c.exec_driver_sql("CREATE TABLE outbox (id INTEGER)")
        with pytest.raises(Exception, match="database did not answer"):
            state.create()
        assert state.revision() == migrations.FOUNDATION
        with state.write() as c:
            c.exec_driver_sql("DROP TABLE outbox")
        assert state.create() == migrations.FOUNDATION
        assert differences(state) == []


def test_operators_can_do_it_themselves(old: str) -> None:
    """``arx mint migrate`` says what there is to do, does it, and finds nothing more to do."""
    checked = arx("mint", "migrate", "--check", "--json", env={"ARX_DATABASE": old})
    assert (checked.exit_code, checked.json["now"]) == (exits.DENIED, migrations.FOUNDATION)
    done = arx("mint", "migrate", "--json", env={"ARX_DATABASE": old})
    assert (done.exit_code, done.json["before"], done.json["now"]) == (0, migrations.FOUNDATION, migrations.HEAD)
    assert arx("mint", "migrate", "--check", env={"ARX_DATABASE": old}).exit_code == exits.OK


def test_the_steps_are_part_of_what_is_installed() -> None:
    """The steps are found where the package is, and nowhere else."""
    steps = files("arx_caps.mint.migrations").joinpath("versions")
    assert len([step for step in steps.iterdir() if step.name.startswith("r")]) == len(migrations.REVISIONS)
