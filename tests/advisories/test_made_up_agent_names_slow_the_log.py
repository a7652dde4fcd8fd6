# SPDX-License-Identifier: Apache-2.0
"""A holder could make questions by agent pattern take minutes, with delegations to made-up agents.

A delegation names whom its holder likes, and a refused one is recorded as well.  Each name that the log had was looked
up by itself, and all that fitted a pattern were passed to the database as a parameter each, of which it takes so many.
Forty thousand names, ten seconds' calls, made ``arx audit trail --agent 'acme/other/**'`` take a minute.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from arx_caps.audit.query import node_search
from arx_caps.audit.query.node_search import Question
from arx_caps.audit.query.questions import records, total
from arx_caps.audit.store.log_store import LogStore
from tests.audit.batches import batch_of, decision, facts

NAMES = 1_500


@pytest.fixture
def log(database: str | None, tmp_path: Path) -> Iterator[LogStore]:
    """A log in which a holder delegated under many names."""
    with LogStore(database or f"sqlite:///{tmp_path / 'audit.db'}") as store:
        store.create()
        named = [facts("s-2", "t-2", f"acme/x{number}", agent="acme/stray") for number in range(NAMES)]
        values = [decision(number, chain, "name_not_allowed") for number, chain in enumerate(named)]
        values += [decision(NAMES, facts("s-1", "t-1", "acme/team/worker", agent="acme/bot"), "ok", "orders.get")]
        for first in range(0, len(values), 500):
            store.take(batch_of(values[first : first + 500], first + 1), "s")
        yield store


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("acme/team/**", 1),
        ("acme/other/**", 0),
        ("acme/*", NAMES + 1),
        ("acme/x7", 1),
        ("acme/bot", 1),
        ("**", NAMES + 1),
    ],
)
def test_names_are_no_work_each(log: LogStore, monkeypatch: pytest.MonkeyPatch, pattern: str, found: int) -> None:
    """What is found is the same, by far fewer statements than there are names, none of which has a parameter each."""
    monkeypatch.setattr(node_search, "GATHERED", 100)  # nodes are listed by number up to there
    asked: list[int] = []

    def count(_c: Any, _cursor: Any, _text: str, parameters: Any, *_: Any) -> None:
        asked.append(len(parameters))

    event.listen(Engine, "before_cursor_execute", count)
    try:
        with log.reading() as c:
            question = Question(agent=pattern)
            answer = total(c, question)
            assert answer.records == found or not answer.exact
            assert len(records(c, question, limit=NAMES)) == min(found, NAMES)
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert len(asked) < NAMES
    assert max(asked) < NAMES
