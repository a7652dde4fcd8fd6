# SPDX-License-Identifier: Apache-2.0
"""Sum up the calls of sessions, and read the last call of each node of one.  LOG 3."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, ScalarSelect, case, func, select
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.entries import ALLOW, DENY
from arx_caps.audit.ingest.place import LINK
from arx_caps.audit.store.bulk import among
from arx_caps.audit.store.tables import NODE, RECORD, STATE
from arx_verifier.errors import AuditError
from arx_verifier.journal.record import read_sealed

_ID_BYTES: Final = 8  # of a node's id in a path
_LATEST: Final = 8  # nodes of a session in which its last call is looked for: those with the latest times


class SessionCalls(NamedTuple):
    """The calls of one session, up to the log's last record.

    Attributes:
        allowed: The number of allowed calls.
        denied: The number of denied calls.
        delegations: The number of its delegations that the log knows.
        depth: How many delegations follow each other at most.
        last_ms: Time of the last record, ms since the Unix epoch.
        last_tool: The tool of the last call of a service; None without one.
    """

    allowed: int
    denied: int
    delegations: int
    depth: int
    last_ms: int
    last_tool: str | None


NO_CALLS: Final = SessionCalls(0, 0, 0, 0, 0, None)


class LastCall(NamedTuple):
    """The last call of a service by a node.

    Attributes:
        tool: Its tool.
        caveats: ``ChainFacts.caveats`` of its chain; None if the body was erased or cannot be read.
        keys: The keys of ``ChainFacts.holders``, of a bound token; the last is the node's own.
    """

    tool: str
    caveats: tuple[tuple[str, ...], ...] | None
    keys: tuple[str, ...] = ()


def calls_of(connection: Connection, sessions: Mapping[str, str]) -> dict[str, SessionCalls]:
    """Return the sums of sessions by their ids; one without a record is left out.

    Args:
        connection: A transaction that reads the log.
        sessions: The agent of each session.  Records of it under another agent do not count.
    """
    # A service can send a record that names another agent's session.  It makes a tree of its own, under that agent.
    theirs = NODE.c.session.in_(list(sessions))
    newer = {(row.session, row.agent): row for row in connection.execute(_NEWER.where(theirs))}
    ranked = _RANKED.where(theirs).subquery()
    latest = select(ranked.c.session, ranked.c.agent, _last_of(ranked.c.id).label("idx"))
    found = latest.where(ranked.c.rank <= _LATEST).subquery()
    of = (found.c.session, found.c.agent)
    newest = select(*of, func.max(found.c.idx).label("idx")).group_by(*of).subquery()
    last = select(newest.c.session, newest.c.agent, RECORD.c.tool).join(RECORD, RECORD.c.idx == newest.c.idx)
    tools = {(session, agent): tool for session, agent, tool in connection.execute(last)}
    sums = {}
    for row in connection.execute(_SUMS.where(theirs)):
        if sessions[row.session] == row.agent:
            which = row.session, row.agent
            more = newer.get(which, NO_CALLS)
            sums[row.session] = SessionCalls(
                int(row.allowed) + int(more.allowed),
                int(row.denied) + int(more.denied),
                int(row.delegations),
                int(row.depth),
                max(row.last_ms, more.last_ms),
                tools.get(which),
            )
    return sums


def last_calls(connection: Connection, nodes: Iterable[int]) -> dict[int, LastCall]:
    """Return the last call of a service by each node; a node without one is left out.

    Args:
        connection: A transaction that reads the log.
        nodes: Ids of nodes, at most some thousands.
    """
    ids = ",".join(map(str, nodes))
    last = select(_last_of(NODE.c.id)).where(among(connection, NODE.c.id, ids)).scalar_subquery()
    columns = (RECORD.c.node, RECORD.c.tool, RECORD.c.kept, RECORD.c.body)
    rows = connection.execute(select(*columns).where(RECORD.c.idx.in_(last))).all()
    return {node: _last_call(tool, kept, body) for node, tool, kept, body in rows}


def _last_call(tool: str, kept: bytes, body: bytes | None) -> LastCall:
    # The facts alone: parsing a whole decision takes twice as long, and a large session has thousands.
    try:
        facts = read_sealed(bytes(kept), None if body is None else bytes(body)).facts
    except AuditError:  # a record of a later version, for example
        return LastCall(tool, None)
    return LastCall(tool, None if body is None else facts.caveats, tuple([holder.key for holder in facts.holders]))


def _last_of(node: ColumnElement[int]) -> ScalarSelect[Any]:
    """Return the subquery of the index of a node's last call."""
    # Calls of the mint itself, such as the end of a session, say little about what an agent works on.
    tools = RECORD.c.outcome.in_(_CALLS), RECORD.c.tool.not_like("arx.%")
    return select(func.max(RECORD.c.idx)).where(RECORD.c.node == node, *tools).scalar_subquery()


_CALLS: Final = (ALLOW, DENY)
_WHICH: Final = (NODE.c.session, NODE.c.agent)
# A path has the session, perhaps the task, and then the delegations.
_DEPTH: Final = func.length(NODE.c.path) // _ID_BYTES - case((NODE.c.task == "", 1), else_=2)
_SUMS: Final = select(
    *_WHICH,
    func.sum(NODE.c.allow).label("allowed"),
    func.sum(NODE.c.deny).label("denied"),
    func.count(case((NODE.c.kind == LINK, 1))).label("delegations"),
    func.max(case((NODE.c.kind == LINK, _DEPTH), else_=0)).label("depth"),
    func.max(NODE.c.last_ms).label("last_ms"),
).group_by(*_WHICH)
# The records that are in no total yet: few, as each checkpoint adds them up.
_NEWER: Final = (
    select(
        *_WHICH,
        func.count(case((RECORD.c.outcome == ALLOW, 1))).label("allowed"),
        func.count(case((RECORD.c.outcome == DENY, 1))).label("denied"),
        func.max(RECORD.c.at_ms).label("last_ms"),
    )
    .join(NODE, NODE.c.id == RECORD.c.node)
    .where(RECORD.c.idx >= select(STATE.c.counted).scalar_subquery())
    .group_by(*_WHICH)
)
_RANK: Final = func.row_number().over(partition_by=_WHICH, order_by=(NODE.c.last_ms.desc(), NODE.c.id.desc()))
_RANKED: Final = select(NODE.c.id, *_WHICH, _RANK.label("rank")).where(NODE.c.allow + NODE.c.deny > 0)
