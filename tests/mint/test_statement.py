# SPDX-License-Identifier: Apache-2.0
"""Compiled statements: the rows, errors and events that SQLAlchemy's own execution has, on both databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, event, func, insert, select, update
from sqlalchemy.exc import IntegrityError, NoResultFound

from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.identity.agents import AGENT_ROWS
from arx_caps.mint.db.statement import CompiledStatement, insert_new, insert_rows
from arx_caps.mint.db.tables import AGENTS, HOLDER_KEYS, OUTBOX, SESSIONS, TASK_GRANTS, TASKS, USED_JTI
from arx_verifier.errors import GrantError, StoreError

EVENT = {"at_ms": 2**40, "mint": "m", "kind": "k", "by": "b'%s ?", "body": bytes(range(256))}
AGENT = {"path": "acme/a", "status": "active", "owner": None, "metadata": "{}", "created_at": 1, "ended_at": None}
BY_ID = AGENTS.c.path == bindparam("which")


@pytest.fixture
def db(tmp_path: Path, database: str | None) -> Iterator[MintDatabase]:
    with MintDatabase(database or f"sqlite:///{tmp_path}/mint.db") as made:
        made.create()
        yield made


def test_rows_are_those_of_sqlalchemy(db: MintDatabase) -> None:
    """Bytes, large numbers, nulls and signs that a driver could take for parameters come back as they went in."""
    with db.write() as c:
        assert CompiledStatement(insert(OUTBOX)).run(c, EVENT) == 1
        CompiledStatement(insert(AGENTS)).run(c, AGENT)
    for statement in (select(OUTBOX), select(AGENTS).where(AGENTS.c.status == "active")):
        with db.read() as c:
            (wanted,) = c.execute(statement)
            compiled = CompiledStatement(statement)
            assert compiled.all(c) == [tuple(wanted)]
            assert compiled.first(c) == tuple(wanted)
            assert list(map(type, compiled.first(c) or ())) == list(map(type, wanted))


def test_a_change_sets_what_it_is_given(db: MintDatabase) -> None:
    """Columns that a call does not name stay, and a literal of the condition is no value of the change."""
    change = CompiledStatement(update(AGENTS).where(BY_ID, AGENTS.c.status == "active"))
    with db.write() as c:
        CompiledStatement(insert(AGENTS)).run(c, AGENT)
        assert change.run(c, {"which": "acme/a", "owner": "ops"}) == 1
        assert change.run(c, {"which": "acme/a", "status": "deactivated", "ended_at": 2}) == 1
        assert change.run(c, {"which": "acme/a", "owner": "acme/owner"}) == 0
        row = AGENT_ROWS.one(c, CompiledStatement(AGENT_ROWS.select().where(BY_ID)), {"which": "acme/a"})
    assert AGENT_ROWS.values(row) == AGENT | {"owner": "ops", "status": "deactivated", "ended_at": 2}


def test_a_row_whose_key_is_taken_is_not_inserted(db: MintDatabase) -> None:
    """The row before stays as it is, and the transaction goes on."""
    add = CompiledStatement(insert(AGENTS))
    with db.write() as c:
        assert insert_new(c, add, AGENT)
        assert not insert_new(c, add, AGENT | {"owner": "ops"})
        assert insert_new(c, add, AGENT | {"path": "acme/b"})
    with db.read() as c:
        rows = c.execute(select(AGENTS.c.path, AGENTS.c.owner).order_by(AGENTS.c.path)).all()
    assert rows == [("acme/a", None), ("acme/b", None)]


def test_an_unknown_name(db: MintDatabase) -> None:
    """No row is None, or an error where the transaction needs one; a parameter that is left out is no null."""
    find = CompiledStatement(select(AGENTS).where(BY_ID))
    with db.read() as c:
        assert find.all(c, {"which": "x"}) == []
        assert find.first(c, {"which": "x"}) is find.scalar(c, {"which": "x"}) is None
        with pytest.raises(NoResultFound):
            AGENT_ROWS.one(c, CompiledStatement(AGENT_ROWS.select().where(BY_ID)), {"which": "x"})
        with pytest.raises(AssertionError, match="which"):
            find.all(c)


@pytest.mark.sqlite
def test_an_error_at_a_later_row_is_sqlalchemys(db: MintDatabase) -> None:
    """SQLite computes a row when it is fetched, so that it can fail after it has returned others."""
    with db.write() as c:
        for until, digest in enumerate(("1", "{")):
            CompiledStatement(insert(USED_JTI)).run(c, {"digest": digest, "until": until})
    parsed = CompiledStatement(select(func.json(USED_JTI.c.digest)).order_by(USED_JTI.c.until))
    with pytest.raises(StoreError), db.read() as c:
        parsed.all(c)


def test_a_second_row_of_a_key_is_a_conflict(db: MintDatabase) -> None:
    """The error is SQLAlchemy's, without the values: a savepoint ends, or the whole transaction."""
    add, row = CompiledStatement(insert(USED_JTI)), {"digest": "secret", "until": 1}
    with db.write() as c:
        add.run(c, row)
        with pytest.raises(IntegrityError) as caught, c.begin_nested():
            add.run(c, row)
        assert row["digest"] not in repr(caught.value.params)
        add.run(c, row | {"digest": "other"})

    def twice() -> None:
        with db.write() as c:
            add.run(c, {"digest": "third", "until": 1})
            add.run(c, row)

    with pytest.raises(GrantError) as refused:
        twice()
    assert refused.value.code == "conflict"
    with db.read() as c:
        assert {digest for digest, _ in CompiledStatement(select(USED_JTI)).all(c)} == {"secret", "other"}


def test_rows_of_several_tables_are_inserted_together(db: MintDatabase) -> None:
    """A row may refer to one before it, and a key that is taken inserts none of them; one round trip on PostgreSQL."""
    asked: list[str] = []
    key = {"kid": "k", "holder": "acme/a", "x": "x", "added_at": 2**40}
    both = {"agent": "acme/a", "status": "open", "policy": "p", "expires_at": 2, "incarnation": "i", "born": 0}
    session = both | {"id": "s", "jkt": "j", "opened_at": 1}
    task = both | {"id": "t", "session": "s", "template": "x", "params": "{}", "audiences": "[]", "link": "l"}
    task |= {"started_at": 1}
    grant = {"link": "l", "task": "t", "content": "{}", "policy": "p", "granted_at": 1, "expires_at": 2}
    event.listen(db._engine, "before_cursor_execute", lambda _, __, text, *___: asked.append(text))
    with db.write() as c:
        insert_rows(c, [(AGENTS, AGENT), (HOLDER_KEYS, key)])
        insert_rows(c, [(SESSIONS, session), (TASKS, task), (TASK_GRANTS, grant)])
        assert [*map(tuple, c.execute(select(*(HOLDER_KEYS.c[name] for name in key))))] == [tuple(key.values())]
    assert sum("INSERT" in text for text in asked) == (2 if db.system == "postgresql" else 5)

    def twice() -> None:
        with db.write() as c:
            insert_rows(c, [(USED_JTI, {"digest": "d", "until": 1}), (HOLDER_KEYS, key)])

    with pytest.raises(GrantError) as refused:
        twice()
    assert refused.value.code == "conflict"
    with db.read() as c:
        assert c.execute(select(USED_JTI)).all() == []


def test_who_listens_to_the_engine_hears_it(db: MintDatabase) -> None:
    """The crash tests count statements there."""
    heard: list[str] = []

    def hear(_: Any, __: Any, text: str, *___: Any) -> None:
        heard.append(text)

    event.listen(db._engine, "before_cursor_execute", hear)
    with db.write() as c:
        CompiledStatement(insert(USED_JTI)).run(c, {"digest": "d", "until": 1})
    event.remove(db._engine, "before_cursor_execute", hear)
    assert [text for text in heard if text.startswith("INSERT INTO used_jti")]


def test_a_text_that_depends_on_values_is_refused(db: MintDatabase) -> None:
    """A list of values has a text for each length: such a statement is SQLAlchemy's."""
    with db.read() as c, pytest.raises(AssertionError):
        CompiledStatement(select(AGENTS).where(AGENTS.c.path.in_(bindparam("which", expanding=True)))).all(
            c, {"which": ["a"]}
        )
