# SPDX-License-Identifier: Apache-2.0
"""Which nodes a question reaches.  SPEC 19.

Naming any node of a chain, a session, task or delegation, reaches all above and all below it and no branch beside; so
does an agent whom a delegation names, while one whom the mint proved reaches its sessions whole.  Finding the records
of these nodes is ``questions``'.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from sqlalchemy import ColumnElement, Select, Text, and_, case, cast, exists, func, literal, literal_column, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection, Row

from arx_caps.audit.bulk import among
from arx_caps.audit.nodes import LINK, SESSION, SUBTASK, TASK
from arx_caps.audit.tables import NODE
from arx_caps.audit.totals import Counted, newer, up_to_date
from arx_verifier.names import matches_path

GATHERED: Final = 5_000  # nodes that are listed; more are only described
_ID: Final = 8  # bytes of a node's id in a path
_RECORDS: Final = NODE.c.allow + NODE.c.deny + NODE.c.other
_LOOKS: Final = 200  # different names that are looked up one by one, and passed so
Names: TypeAlias = "list[str] | Select[Any]"  # what ``in_`` takes


class Question(NamedTuple):
    """What is asked for; members that are None let everything through, all others hold together.

    Attributes:
        session: A session's id.
        task: The id of a task or sub-task.
        link: A delegation's public name.
        granted: A task, by the link of the tokens that the mint gave for it: no delegation made that one.
        agent: An agent's path or a pattern: whom the mint proved, or whom a delegation names.
        subject: The target of whom it was for, ``subject:…``.
        tool: A tool or a pattern; of an event its kind.
        reason: A reason code, or a word of ``OUTCOMES``.
        since_ms: From when, ms since the Unix epoch.
        until_ms: Until when, exclusive.
    """

    session: str | None = None
    task: str | None = None
    link: str | None = None
    granted: str | None = None
    agent: str | None = None
    subject: str | None = None
    tool: str | None = None
    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def of_nodes(self) -> bool:
        """Whether it asks by somebody."""
        return any(each is not None for each in self[:6])

    @property
    def of_records(self) -> bool:
        """Whether it asks by what a record says beyond its node."""
        return any(each is not None for each in self[6:])


class Reach(NamedTuple):
    """The nodes that a question reaches, to be shown.

    Attributes:
        nodes: Their rows, in the order of their paths; some of them, where there are too many.
        complete: Whether these are all.
    """

    nodes: Sequence[Row[Any] | Counted]
    complete: bool


class Held(NamedTuple):
    """What the nodes that a question reaches hold together; of some of them, where there are too many.

    Attributes:
        ids: Their ids, with commas between.
        complete: Whether these are all.
        records: How many records they have.
        since_ms: When the first of these was decided, or when its node was first seen; None where there is none.
        until_ms: When the last was.
        where: What holds for a row of ``log_node`` that is one of them.
    """

    ids: str
    complete: bool
    records: int
    since_ms: int | None
    until_ms: int | None
    where: ColumnElement[bool]


def reach(connection: Connection, question: Question) -> Reach | None:
    """Return the nodes that a question reaches, or None where it names none."""
    if not question.of_nodes:
        return None
    # Sorted here: in the database it would be a reason for looking at every node in the order of paths.
    rows = connection.execute(select(*NODE.c).where(_where(connection, question)).limit(GATHERED + 1)).all()
    nodes = sorted(up_to_date(connection, rows), key=lambda row: bytes(row.path))
    return Reach(nodes, len(rows) <= GATHERED)


def held(connection: Connection, question: Question, *, some: bool = False) -> Held | None:
    """Return what the nodes that a question reaches hold, or None where it names none.

    Added up by the database: to fetch thousands of nodes takes ten times longer than to find the records.

    Args:
        connection: A state of the log.
        question: The question.
        some: Whether to add up some of them where there are too many; else nothing is, as whoever asks then walks.
    """
    if not question.of_nodes:
        return None
    where = _where(connection, question)
    people = question.agent is not None or question.subject is not None
    if people and not some and _too_many(connection, where):
        return Held("", False, 0, None, None, where)
    of = select(NODE.c.id, _RECORDS.label("n"), NODE.c.first_ms, NODE.c.last_ms).where(where).limit(GATHERED + 1)
    each = of.subquery().c
    ids = func.aggregate_strings(cast(each.id, Text), ",")
    since, until = (case((each.n > 0, time)) for time in (each.first_ms, each.last_ms))
    count, *found = connection.execute(
        select(func.count(), ids, func.sum(each.n), func.min(since), func.max(until))
    ).one()
    if not count:
        return Held("", True, 0, None, None, where)
    more, *times = newer(connection, lambda node: among(connection, node, found[0]))
    since_ms, until_ms = ([time for time in pair if time is not None] for pair in zip(found[2:], times, strict=True))
    span = min(since_ms, default=None), max(until_ms, default=None)
    return Held(found[0], count <= GATHERED, int(found[1]) + more, *span, where)


def _too_many(connection: Connection, where: ColumnElement[bool]) -> bool:
    """Tell, by an index alone, whether there are more such nodes than are looked at."""
    found = select(NODE.c.id).where(where).limit(GATHERED + 1).subquery()
    return bool(connection.execute(select(func.count()).select_from(found)).scalar_one() > GATHERED)


def _where(connection: Connection, question: Question) -> ColumnElement[bool]:
    return and_(*_by_ids(connection, question), *_by_people(connection, question))


def _by_ids(connection: Connection, question: Question) -> Iterator[ColumnElement[bool]]:
    """Yield, for each id that is named, what its nodes and all above and below them have in common."""
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
    """Say what holds for the nodes of an agent: of its own sessions all, else those above and below its name."""
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
    if not sessions:  # most agents are never named: what would be asked of each node for nothing is left out
        return NODE.c.agent.in_(proven)
    # Where the name stands in few sessions, their nodes are all that has to be looked at.
    where = link if len(sessions) > GATHERED else and_(NODE.c.session.in_(sessions), link)
    return or_(NODE.c.agent.in_(proven), where)


def _matching(connection: Connection, column: Any, pattern: str) -> "Names":
    if "*" not in pattern:
        return [pattern]
    # Holders choose names, and may make up many: what a look costs each is then paid once, for the whole index.
    known = list(islice(different(connection, column), _LOOKS))
    if len(known) == _LOOKS:
        known = list(connection.execute(select(column).distinct()).scalars())
    names = [name for name in known if name and matches_path(pattern, name)]
    return names if len(names) < _LOOKS else _listed(connection, names)


def _listed(connection: Connection, names: list[str]) -> Select[Any]:
    """Pass many names as one parameter: a database takes only so many."""
    text = msgspec.json.encode(names).decode()
    if connection.dialect.name == "sqlite":
        return select(literal_column("value")).select_from(func.json_each(text))
    return select(func.jsonb_array_elements_text(cast(literal(text, Text), JSONB)))


def different(connection: Connection, column: Any) -> Iterator[str]:
    """Yield the different values of an indexed column, a look at the index each."""
    last: str | None = connection.execute(select(func.min(column))).scalar()
    while last is not None:
        yield last
        last = connection.execute(select(func.min(column)).where(column > last)).scalar()


def _behind(path: bytes) -> bytes:
    """Return the first path behind all that begin with this one."""
    return (int.from_bytes(path, "big") + 1).to_bytes(len(path), "big")


def _outermost(paths: Iterable[bytes]) -> list[bytes]:
    """Leave out paths that stand below another one."""
    found: list[bytes] = []
    for path in sorted(paths):
        if not found or not path.startswith(found[-1]):
            found.append(path)
    return found


def _begins(whole: Any, start: Any) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = func.substr(whole, 1, func.length(start)) == start
    return condition
