# SPDX-License-Identifier: Apache-2.0
"""Find the nodes that a question reaches.  LOG 3.

``questions`` finds the records of these nodes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from sqlalchemy import ColumnElement, Select, Text, and_, case, cast, exists, func, literal, literal_column, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.place import LINK, SESSION, SUBTASK, TASK
from arx_caps.audit.store.bulk import among
from arx_caps.audit.store.tables import NODE
from arx_caps.audit.store.totals import Counted, newer, up_to_date
from arx_verifier.names import matches_path

# A session, task or delegation reaches all nodes above and below it, and no other branch.  So does an agent that a
# delegation names.  An agent that the mint authenticated reaches its sessions whole.
GATHERED: Final = 5_000  # nodes that are listed; a question that reaches more is answered by a condition
_ID: Final = 8  # bytes of a node's id in a path
_RECORDS: Final = NODE.c.allow + NODE.c.deny + NODE.c.other
_LOOKS: Final = 5_000  # different names that are looked up one by one
_PARAMETERS: Final = 200  # names that are passed as separate parameters
_LAST: Final = "\U0010ffff"  # behind every other character
Names: TypeAlias = "list[str] | Select[Any]"  # an argument of ``in_``


class Question(NamedTuple):
    """The filter of a query; None matches everything, and all other members must match.

    Attributes:
        session: A session's id.
        task: The id of a task or sub-task.
        link: A delegation's public name.
        granted: A task's id, by the link of the tokens that the mint issued for it; no delegation has that link.
        agent: An agent's path or a pattern: authenticated by the mint, or named in a delegation.
        subject: The subject's target, ``subject:…``.
        tool: A tool or a pattern; for an event its kind.
        connection: The id of a person's account at an upstream, which the record names.
        reason: A reason code, or a word of ``OUTCOMES``.
        since_ms: The first time, ms since the Unix epoch.
        until_ms: The time after the last, ms since the Unix epoch.
    """

    session: str | None = None
    task: str | None = None
    link: str | None = None
    granted: str | None = None
    agent: str | None = None
    subject: str | None = None
    tool: str | None = None
    connection: str | None = None
    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def of_nodes(self) -> bool:
        """Whether it filters by nodes."""
        return any(value is not None for value in self[:6])

    @property
    def of_records(self) -> bool:
        """Whether it filters by more than nodes."""
        return any(value is not None for value in self[6:])


class Reach(NamedTuple):
    """The nodes that a question reaches, for display.

    Attributes:
        nodes: Their rows, in the order of their paths; at most ``GATHERED``.
        complete: Whether these are all.
    """

    nodes: Sequence[Counted]
    complete: bool


class Held(NamedTuple):
    """Totals over the nodes that a question reaches, or over some of them.

    Attributes:
        ids: Their ids, separated by commas.
        complete: Whether these are all.
        records: Number of their records.
        since_ms: Time of the first of these records, ms since the Unix epoch; None without one.
        until_ms: Time of the last.
        where: The condition on rows of ``log_node`` that selects all of them.
    """

    ids: str
    complete: bool
    records: int
    since_ms: int | None
    until_ms: int | None
    where: ColumnElement[bool]


def reach(connection: Connection, question: Question) -> Reach | None:
    """Return the nodes that a question reaches, or None if it does not filter by nodes.

    Args:
        connection: A transaction that reads the log.
        question: The filter.
    """
    if not question.of_nodes:
        return None
    # Sorted here: with ORDER BY the database might visit every node in the order of paths.
    rows = connection.execute(select(*NODE.c).where(_where(connection, question)).limit(GATHERED + 1)).all()
    nodes = sorted(up_to_date(connection, rows), key=lambda row: bytes(row.path))
    return Reach(nodes, len(rows) <= GATHERED)


def held(connection: Connection, question: Question, *, some: bool = False) -> Held | None:
    """Return totals over the nodes that a question reaches, or None if it does not filter by nodes.

    Args:
        connection: A transaction that reads the log.
        question: The filter.
        some: Whether to add up some nodes if there are too many; else ``records`` is 0 and ``complete`` False, and the
            caller walks the log.
    """
    if not question.of_nodes:
        return None
    # The database adds up: fetching thousands of nodes takes ten times longer than finding the records.
    where = _where(connection, question)
    people = question.agent is not None or question.subject is not None
    if people and not some and _too_many(connection, where):
        return Held("", False, 0, None, None, where)
    of = select(NODE.c.id, _RECORDS.label("n"), NODE.c.first_ms, NODE.c.last_ms).where(where).limit(GATHERED + 1)
    node = of.subquery().c
    ids = func.aggregate_strings(cast(node.id, Text), ",")
    since, until = (case((node.n > 0, time)) for time in (node.first_ms, node.last_ms))
    count, *sums = connection.execute(
        select(func.count(), ids, func.sum(node.n), func.min(since), func.max(until))
    ).one()
    if not count:
        return Held("", True, 0, None, None, where)
    more, *times = newer(connection, lambda column: among(connection, column, sums[0]))
    since_ms, until_ms = ([time for time in pair if time is not None] for pair in zip(sums[2:], times, strict=True))
    span = min(since_ms, default=None), max(until_ms, default=None)
    return Held(sums[0], count <= GATHERED, int(sums[1]) + more, *span, where)


def _too_many(connection: Connection, where: ColumnElement[bool]) -> bool:
    """Return whether more than ``GATHERED`` nodes match, from an index alone."""
    matching = select(NODE.c.id).where(where).limit(GATHERED + 1).subquery()
    return bool(connection.execute(select(func.count()).select_from(matching)).scalar_one() > GATHERED)


def _where(connection: Connection, question: Question) -> ColumnElement[bool]:
    return and_(*_by_ids(connection, question), *_by_people(connection, question))


def _by_ids(connection: Connection, question: Question) -> Iterator[ColumnElement[bool]]:
    """Yield, for each id in the question, the condition of its nodes and of all above and below them."""
    tasks = (((TASK, SUBTASK), question.task), ((TASK,), question.granted))
    for kinds, ref in (((SESSION,), question.session), *tasks, ((LINK,), question.link)):
        if ref is None:
            continue
        named = select(NODE.c.path).where(NODE.c.kind.in_(kinds), NODE.c.ref == ref).limit(GATHERED)
        paths = [bytes(path) for path in connection.execute(named).scalars()]
        above = {path[:end] for path in paths for end in range(_ID, len(path), _ID)}
        below = [and_(NODE.c.path >= path, NODE.c.path < _behind(path)) for path in _outermost(paths)]
        yield or_(NODE.c.path.in_(sorted(above)), *below)


def _by_people(connection: Connection, question: Question) -> Iterator[ColumnElement[bool]]:
    if question.subject is not None:
        yield NODE.c.subject == question.subject  # the same for all nodes of a session
    if question.agent is not None:
        yield _by_agent(connection, question.agent)


def _by_agent(connection: Connection, agent: str) -> ColumnElement[bool]:
    """Return the condition of an agent's nodes: its own sessions, and all above and below its name elsewhere."""
    proven, named = (_matching(connection, column, agent) for column in (NODE.c.agent, NODE.c.name))
    of = NODE.alias()
    link = exists().where(
        of.c.session == NODE.c.session,
        of.c.session != "",
        of.c.kind == LINK,
        of.c.name.in_(named),
        or_(_begins(of.c.path, NODE.c.path), _begins(NODE.c.path, of.c.path)),
    )
    within = select(of.c.session).where(of.c.name.in_(named), of.c.kind == LINK).distinct().limit(GATHERED + 1)
    sessions = connection.execute(within).scalars().all()
    if not sessions:  # most agents are never named in a delegation: their query needs no test of each node
        return NODE.c.agent.in_(proven)
    # If the name occurs in few sessions, only their nodes need the test.
    where = link if len(sessions) > GATHERED else and_(NODE.c.session.in_(sessions), link)
    return or_(NODE.c.agent.in_(proven), where)


def _matching(connection: Connection, column: Any, pattern: str) -> "Names":
    if "*" not in pattern:
        return [pattern]
    # Holders choose names, and may invent many.  Beyond `_LOOKS` names, one scan of the index replaces single look-ups.
    # SQLite orders names by their bytes, so that those with the pattern's beginning are one range of the index.
    begins = pattern.partition("*")[0].rstrip("/") if connection.dialect.name == "sqlite" else ""
    known = different(connection, column, _LOOKS, begins)
    if len(known) == _LOOKS:
        within = (column >= begins, column < begins + _LAST) if begins else ()
        known = list(connection.execute(select(column).where(*within).distinct()).scalars())
    names = [name for name in known if name and matches_path(pattern, name)]
    return names if len(names) < _PARAMETERS else _listed(connection, names)


def _listed(connection: Connection, names: list[str]) -> Select[Any]:
    """Return many names as one parameter, because a database limits the number of parameters."""
    text = msgspec.json.encode(names).decode()
    if connection.dialect.name == "sqlite":
        return select(literal_column("value")).select_from(func.json_each(text))
    return select(func.jsonb_array_elements_text(cast(literal(text, Text), JSONB)))


def different(connection: Connection, column: Any, most: int, begins: str = "") -> list[str]:
    """Return the different values of an indexed column, with one index look-up each.

    Args:
        connection: A transaction that reads the log.
        column: A column of text with an index.
        most: The largest number of values.
        begins: The beginning of all values; empty but on SQLite.
    """
    least = func.min(column).label("value")
    within = (column >= begins, column < begins + _LAST) if begins else ()
    value = select(least).where(*within).cte("found", recursive=True)
    after = select(func.min(column)).where(column > value.c.value, *within).scalar_subquery()
    value = value.union_all(select(after).where(value.c.value.is_not(None)))
    listed = select(value.c.value).where(value.c.value.is_not(None)).limit(most)
    return list(connection.execute(listed).scalars())


def _behind(path: bytes) -> bytes:
    """Return the first path after all those that begin with this one."""
    return (int.from_bytes(path, "big") + 1).to_bytes(len(path), "big")


def _outermost(paths: Iterable[bytes]) -> list[bytes]:
    """Return the paths that are not below another one."""
    outermost: list[bytes] = []
    for path in sorted(paths):
        if not outermost or not path.startswith(outermost[-1]):
            outermost.append(path)
    return outermost


def _begins(whole: Any, start: Any) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = func.substr(whole, 1, func.length(start)) == start
    return condition
