# SPDX-License-Identifier: Apache-2.0
"""Preview a kill or freeze: what it would end, which targets look mistyped, and who must confirm it. SPEC 10.

Nothing is changed. The queries are in ``db.previews``.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec
from sqlalchemy import func, or_, select

from arx_caps.audit.ingest.place import LINK
from arx_caps.audit.store.tables import NODE
from arx_caps.mint.context import HasDatabase, LogParts, StoreParts
from arx_caps.mint.db.repositories.work.previews import Named
from arx_caps.mint.db.tables import TaskRow
from arx_caps.mint.tasks.liveness import is_frozen, session_state, task_state
from arx_caps.revocation.targets import Target
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, StoreError
from arx_verifier.journal.writer import audience_of
from arx_verifier.token.targets import agent_targets, subject_target

LOOKED_AT: Final = 2000  # sessions, and tasks, whose state is read; more are counted
MOST_SUBJECTS: Final = 50_000
MOST_NODES: Final = 5000  # ids with which delegations are looked up in the log
MOST_MEANT: Final = 10  # unknown agents for which a similar name is looked for
NEAR: Final = 0.8  # similarity of a name that is suggested
LIVE: Final = ("open", "frozen")
_ENDED: Final = {"ended": "it has ended", "expired": "it has expired", "killed": "it was killed before"}


class LookedUp(NamedTuple):
    """A target, as far as the mint knows it.

    Attributes:
        target: The target.
        state: ``live``, ``frozen``, ``over`` or ``unknown``.
        note: What an operator should know about it, or None.
        meant: A similar target that the mint has, or None.
    """

    target: Target
    state: Literal["live", "frozen", "over", "unknown"]
    note: str | None = None
    meant: str | None = None


class Extent(msgspec.Struct, frozen=True):
    """What a kill ends.

    Attributes:
        sessions: Number of open sessions.
        tasks: Number of open tasks.
        agents: Number of different agents: of these sessions, and named in their delegations.
        delegations: Number of delegations that the audit log has, of tokens that can still be valid.
        tokens: Number of tokens that the mint issued for them; holders can have made others from these.
        exact: Whether sessions and tasks were all looked at: else killed ones are counted as well.
    """

    sessions: int
    tasks: int
    agents: int
    delegations: int
    tokens: int
    exact: bool


class Waited(NamedTuple):
    """The verifiers that a kill waits for.

    Attributes:
        services: The number of live verifiers of each enrolled service; 0 if the store knows none.
        verifiers: The number of all live verifiers, those behind relays included.
        lease_ms: The longest lease, ms: after it, no verifier accepts without a confirmation.
    """

    services: dict[str, int]
    verifiers: int
    lease_ms: int


def agents_for(mint: HasDatabase, targets: Sequence[Target]) -> list[str]:
    """Return the paths of enrolled agents, for ``look_up`` and ``measure``; empty if no target is an agent."""
    return mint.db.previews.paths() if any(target.kind == "agent" for target in targets) else []


def look_up(mint: LogParts, targets: Sequence[Target], paths: Sequence[str]) -> list[LookedUp]:
    """Return what the mint knows of targets.

    Args:
        mint: The mint.
        targets: The targets.
        paths: The agents.

    Raises:
        StoreError: The database did not answer.
    """
    ids = {kind: [target.name for target in targets if target.kind == kind] for kind in ("session", "task")}
    known = {
        **{f"session:{row.id}": session_state(mint.kills, row) for row in mint.db.sessions.find_all(ids["session"])},
        **{f"task:{row.id}": task_state(mint.kills, row) for row in mint.db.tasks.find_all(ids["task"])},
    }
    above = {ancestor for path in paths for ancestor in agent_targets(path)}
    found, left = [], MOST_MEANT
    for target in targets:
        looked = _look_up(mint, target, known, above)
        if looked.state == "unknown" and target.kind == "agent" and left:
            left -= 1
            near = difflib.get_close_matches(target.name, paths[:MOST_NODES], 1, cutoff=NEAR)
            looked = looked._replace(meant=f"agent:{near[0]}" if near else None)
        found.append(looked)
    return found


def _look_up(mint: LogParts, target: Target, known: Mapping[str, str], above: Collection[str]) -> LookedUp:
    text, name = str(target), target.name
    unknown: str | None = None
    if target.kind in ("session", "task") and not name.startswith("a-"):
        state = known.get(text)
        if state in _ENDED:
            return LookedUp(target, "over", _ENDED[state])
        unknown = f"the mint has no such {target.kind}" if state is None else None
    elif target.kind == "agent":
        if text not in above and not _delegated(mint, [name], []).number:
            unknown = "it is not enrolled, nor is an agent below it, and no delegation in the log names it"
    elif target.kind == "task":
        unknown = None if mint.db.approvals.find(name) is not None else "the mint has no such approval"
    elif target.kind == "operator":
        unknown = None if mint.db.operators.find(name) is not None else "there is no such operator"
    elif target.kind == "policy":
        unknown = None if mint.db.policies.find(name) is not None else "this realm never had that policy"
    elif target.kind == "link":
        seen = mint.db.grants.find(name) is not None or mint.log.store.node(LINK, name)
        unknown = None if seen else "neither mint nor log has seen it yet; a holder may have made it offline"
    if unknown is not None:
        return LookedUp(target, "unknown", unknown)
    return LookedUp(target, "frozen" if is_frozen(mint.kills, (text,)) else "live")


def measure(mint: LogParts, targets: Sequence[Target], paths: Sequence[str]) -> Extent:
    """Return what a kill of these targets ends; a freeze stops the same.

    Args:
        mint: The mint.
        targets: The targets.
        paths: The agents.

    Raises:
        StoreError: The database did not answer.
    """
    named = _named(mint, targets, paths)
    rows, sessions = mint.db.previews.sessions(named, LOOKED_AT)
    open_ones = [row for row in rows if session_state(mint.kills, row) in LIVE]
    ids = [row.id for row in open_ones]
    found, tasks = mint.db.previews.tasks(named, ids, LOOKED_AT)
    theirs = {*ids}
    in_reach = [row for row in found if named.everything or _reached(row, named, theirs)]
    open_tasks = [row for row in in_reach if task_state(mint.kills, row) in LIVE]
    exact = sessions == len(rows) and tasks == len(found)
    names = [target.name for target in targets if target.kind == "agent"]
    links = [target.name for target in targets if target.kind == "link"]
    delegated = _delegated(mint, names, ids, [row.id for row in open_tasks if row.session not in theirs], links)
    audiences = sum(len(row.audiences) for row in open_tasks)
    agents = {*(row.agent for row in open_ones), *(row.agent for row in open_tasks)} | delegated.names
    if not exact:  # what was not looked at is counted, and its tokens are estimated by the others
        audiences = round(audiences * tasks / max(1, len(open_tasks)))
    count, work = (len(open_ones), len(open_tasks)) if exact else (sessions, tasks)
    return Extent(count, work, len(agents), delegated.number, count + audiences, exact)


def _named(mint: HasDatabase, targets: Sequence[Target], paths: Sequence[str]) -> Named:
    by_kind: dict[str, list[str]] = {}
    for target in targets:
        by_kind.setdefault(target.kind, []).append(target.name)
    wanted = {str(target) for target in targets}
    tasks = [name for name in by_kind.get("task", ()) if not name.startswith("a-")]
    for link in by_kind.get("link", ()):
        grant = mint.db.grants.find(link)
        tasks += [] if grant is None else [grant.task]
    return Named(
        everything="realm" in wanted,
        agents=[path for path in paths if wanted.intersection(agent_targets(path))],
        sessions=by_kind.get("session", ()),
        tasks=tasks,
        subjects=[pair for pair in mint.db.previews.subjects(MOST_SUBJECTS) if subject_target(*pair) in wanted]
        if "subject" in by_kind
        else (),
        policies=by_kind.get("policy", ()),
    )


def _reached(task: TaskRow, named: Named, sessions: Collection[str]) -> bool:
    if task.session in sessions or task.policy in named.policies or task.id in named.tasks:
        return True
    return bool({*named.tasks}.intersection(task.above))


class _Delegated(NamedTuple):
    number: int
    names: set[str]


def _delegated(
    mint: LogParts,
    names: Sequence[str],
    sessions: Sequence[str],
    tasks: Sequence[str] = (),
    links: Sequence[str] = (),
) -> _Delegated:
    """Return the delegations in the log that targets reach, and the names that they are for."""
    # Older ones have expired: no token lives longer than that.
    since = now_ms() - mint.realm.max_ttl_ms
    parts = ((NODE.c.name, names), (NODE.c.session, sessions), (NODE.c.task, tasks), (NODE.c.ref, links))
    which = [column.in_(values[:MOST_NODES]) for column, values in parts if values]
    if not which:
        return _Delegated(0, set())
    wanted = (NODE.c.kind == LINK, NODE.c.last_ms >= since, or_(*which))
    try:
        with mint.log.store.reading() as c:
            count = int(c.execute(select(func.count()).select_from(NODE).where(*wanted)).scalar_one())
            named = c.execute(select(NODE.c.name).where(*wanted).distinct().limit(MOST_NODES)).scalars()
            return _Delegated(count, {name for name in named if name})
    except ArxError:  # without the log a preview still shows what the mint itself began
        return _Delegated(0, set())


def waits_for(mint: StoreParts) -> Waited:
    """Return the verifiers that a kill waits for now.

    Raises:
        StoreError: Store or database did not answer.
    """
    header = mint.store.header()
    services = dict.fromkeys((row.audience for row in mint.db.services.list()), 0)
    verifiers = 0
    for seen in mint.store.verifiers():
        if seen.age_ms <= header.lease_ms:
            count = 1 if seen.behind is None else seen.behind
            verifiers += count
            audience = audience_of(seen.id)
            if audience is not None:
                services[audience] = services.get(audience, 0) + count
    return Waited(services, verifiers, header.lease_ms + header.lag_ms)


def waits_or_why(mint: StoreParts) -> tuple[Waited | None, str | None]:
    """Return the verifiers that a kill waits for, or why that is unknown."""
    try:
        return waits_for(mint), None
    except StoreError as error:
        return None, str(error)
