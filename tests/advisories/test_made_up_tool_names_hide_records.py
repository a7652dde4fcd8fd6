# SPDX-License-Identifier: Apache-2.0
"""A holder could hide records from a question by tool pattern, with a thousand made-up tool names.

A caller chooses what it calls a tool; it is refused and recorded.  A pattern was held against the first thousand names
that the log had: behind a thousand made-up ones, ``orders.*`` found nothing, and said that there was nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.audit.query.node_search import Question
from arx_caps.audit.query.questions import records, total
from arx_caps.audit.store.log_store import LogStore
from tests.audit.batches import batch_of, decision, facts

HIDDEN = 1_100


@pytest.fixture
def log(database: str | None, tmp_path: Path) -> Iterator[LogStore]:
    """An empty log."""
    with LogStore(database or f"sqlite:///{tmp_path / 'audit.db'}") as store:
        store.create()
        yield store


@pytest.mark.slow
def test_no_number_of_names_hides_a_tool(log: LogStore) -> None:
    """What is found is the same, however many other names a caller made up."""
    honest, attacker = facts("s-1", "t-1"), facts("s-2", "t-2", agent="acme/stray")
    made_up = [f"a.{number:04d}" for number in range(HIDDEN)]
    values = [decision(number, attacker, "tool_not_allowed", tool) for number, tool in enumerate(made_up)]
    named = ("orders.get", "orders.refund", "orders.", "orders", "ordersx", "Orders.get")
    values += [decision(HIDDEN + number, honest, "ok", tool) for number, tool in enumerate(named)]
    for first in range(0, len(values), 500):
        log.take(batch_of(values[first : first + 500], first + 1), "s")
    with log.reading() as c:
        for asked in (Question(tool="orders.*"), Question(tool="orders.*", session="s-1", reason="allow")):
            assert {each.tool for each in records(c, asked)} == {"orders.get", "orders.refund"}
            assert total(c, asked).records == 2
        assert total(c, Question(tool="a.*", session="s-2")).records == HIDDEN
        assert total(c, Question(tool="*")).records == len(values)
