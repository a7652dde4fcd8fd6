# SPDX-License-Identifier: Apache-2.0
"""The route of a session's delegation tree: its holders, what each delegation removed, and their states.  LOG 3.

The tree is that of the audit log.  What a delegation removed is in the records of the calls below it: holders delegate
offline, so that the mint knows of a delegation only once a service decided on it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from arx_caps.audit.query.node_search import Question, reach
from arx_caps.audit.query.session_calls import LastCall, last_calls
from arx_caps.mint.api.endpoint import Endpoint, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.routes.work.sessions import GONE, find_session
from arx_caps.mint.context import HasKills, HasLog, LogParts
from arx_caps.mint.db.tables import SessionRow, TaskRow
from arx_caps.mint.tasks.liveness import State, session_targets, state_by, task_targets
from arx_caps.text.caveat_text import removals, show_json
from arx_verifier.clock import now_ms
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.targets import agent_targets

MAX_NODES: Final = 1_000  # a tree with more is not read as a whole; the audit log has pages of its records


class TreeNode(msgspec.Struct, frozen=True, kw_only=True):
    """A holder of a session: the agent itself, one of its tasks, or a delegation.

    ``parent`` is the position of the node above in the list, ``log_nodes`` the ``node`` of its records, and ``kind``
    session, task, link (a delegation) or subtask.  ``target`` kills it and all below it.  The counts are of its own
    calls.  ``caveats`` are those that a delegation added, and ``removes`` the same in words; both are null if no
    record has them: they were erased, or too long.  ``key`` is the holder's public key, if a record of a bound task's
    call has it: the holder above has signed the delegation to that key.  ``expires_at`` is the earliest end that task
    and delegations set.
    """

    parent: int | None
    log_nodes: list[int]
    kind: str
    ref: str
    name: str
    target: str
    template: str | None
    state: State
    expires_at: int
    allowed: int
    denied: int
    other: int
    first_at: int
    last_at: int
    last_tool: str | None
    caveats: list[dict[str, Any]] | None
    removes: list[str] | None
    key: str | None


class SessionTree(RouteAnswer, frozen=True):
    """The holders of a session, each after the one above it; ``complete`` is false if there are more.

    Times are ms since the Unix epoch.
    """

    nodes: list[TreeNode]
    complete: bool


class _Holder(NamedTuple):
    """The row of a node's task or session, the targets that revoke it, and its end."""

    row: SessionRow | TaskRow
    targets: tuple[str, ...]
    expires_at: int


class _Place(msgspec.Struct):
    """A node under construction, of one or more nodes of the log."""

    kind: str
    ref: str
    name: str
    parent: int | None
    rows: list[Any]
    calls: list[LastCall]
    caveats: list[dict[str, Any]] | None = None
    key: str | None = None


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("GET", "/v1/sessions/{session}/tree", "arx.sessions.read", problems=GONE)
def get_session_tree(call: RouteCall) -> SessionTree:
    """Return a session's delegation tree, with what each delegation removed."""
    return tree_of(call.mint, find_session(call, call.path["session"]))


def tree_of(mint: LogParts, session: SessionRow) -> SessionTree:
    """Return the delegation tree of a session.

    Args:
        mint: The mint.
        session: The session's row.

    Raises:
        StoreError: The log's database does not answer.
    """
    places, complete = _read_places(mint, session)
    tasks = mint.db.tasks.by_id([place.ref for place in places if place.kind != "link"], session.id)
    root = _Holder(session, session_targets(session), session.expires_at)
    nodes: list[TreeNode] = []
    holders: list[_Holder] = []
    for place in places:
        above = root if place.parent is None else holders[place.parent]
        holder = _below(above, place, tasks.get(place.ref))
        holders.append(holder)
        nodes.append(_show(mint, place, holder))
    return SessionTree(nodes=nodes, complete=complete)


def _read_places(mint: HasLog, session: SessionRow) -> tuple[list[_Place], bool]:
    """Return the session's places, parents first, and whether these are all."""
    with mint.log.store.reading() as c:
        reached = reach(c, Question(session=session.id))
        assert reached is not None
        # A service can send a record that names another agent's session: it makes a tree under that agent.
        rows = [row for row in reached.nodes if row.agent == session.agent]
        known = rows[:MAX_NODES]
        calls = last_calls(c, [row.id for row in known])
    places: list[_Place] = []
    by_row: dict[int, int] = {}
    by_name: dict[tuple[int | None, str, str], int] = {}
    for row in known:
        parent = by_row.get(row.parent) if row.parent is not None else None
        # Events do not name the subject that calls name, and so have nodes of their own in the log.
        at = by_name.setdefault((parent, row.kind, row.ref), len(places))
        if at == len(places):
            places.append(_Place(row.kind, row.ref, row.name, parent, [], []))
        by_row[row.id] = at
        places[at].rows.append(row)
        if row.id in calls:
            places[at].calls.append(calls[row.id])
    # From above: of a holder that has calls, its own last one counts, and none of those below.
    for place in places:
        _take_caveats(places, place)
        _take_keys(places, place)
    return places, reached.complete and len(rows) == len(known)


def _take_caveats(places: Sequence[_Place], place: _Place) -> None:
    """Set the caveats of a delegation, and of those above it that have none yet, from the record of a call."""
    steps = next((call.caveats for call in place.calls if call.caveats), None)
    if steps is None:
        return
    left = list(steps)
    above: _Place | None = place
    while above is not None and left:
        if above.kind == "link":
            step = left.pop()
            if above.caveats is None:
                above.caveats = _parse_caveats(step)
        above = places[above.parent] if above.parent is not None else None


def _take_keys(places: Sequence[_Place], place: _Place) -> None:
    """Set the keys of a delegation, and of those above it that have none yet, from the record of a call."""
    left = list(next((call.keys for call in place.calls if call.keys), ()))
    above: _Place | None = place
    while above is not None and left:
        if above.kind in ("link", "task"):
            key = left.pop()
            above.key = above.key or key
        above = places[above.parent] if above.parent is not None else None


def _below(above: _Holder, place: _Place, task: TaskRow | None) -> _Holder:
    """Return what the state of a node depends on."""
    if place.kind == "link":
        own = f"link:{place.ref}", *agent_targets(place.name)
        ends = [end for caveat in place.caveats or () if isinstance(end := caveat.get("exp"), int)]
        return _Holder(above.row, (*above.targets, *own), min([above.expires_at, *ends]))
    if task is None:
        return above
    return _Holder(task, (*above.targets, *task_targets(task), f"task:{task.id}"), task.expires_at)


def _show(mint: HasKills, place: _Place, holder: _Holder) -> TreeNode:
    rows = place.rows
    state = state_by(mint.kills, holder.row, holder.targets)
    return TreeNode(
        parent=place.parent,
        log_nodes=[row.id for row in rows],
        kind=place.kind,
        ref=place.ref,
        name=place.name,
        target=f"{'task' if place.kind == 'subtask' else place.kind}:{place.ref}",
        template=holder.row.template if place.kind == "task" and isinstance(holder.row, TaskRow) else None,
        state="expired" if state == "open" and holder.expires_at <= now_ms() else state,
        expires_at=holder.expires_at,
        allowed=sum([row.allow for row in rows]),
        denied=sum([row.deny for row in rows]),
        other=sum([row.other for row in rows]),
        first_at=min([row.first_ms for row in rows]),
        last_at=max([row.last_ms for row in rows]),
        last_tool=place.calls[0].tool if place.calls else None,
        caveats=place.caveats,
        key=place.key,
        removes=None if place.caveats is None else [text for caveat in place.caveats for text in _removals_of(caveat)],
    )


def _parse_caveats(texts: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return the caveats of a delegation; None if a service recorded something else."""
    try:
        return [msgspec.json.decode(text, type=dict[str, Any]) for text in texts]
    except (msgspec.DecodeError, RecursionError):
        return None


def _removals_of(caveat: Mapping[str, Any]) -> list[str]:
    """Return what a recorded caveat removes, in words."""
    try:
        return removals(msgspec.convert(caveat, Caveat))
    except msgspec.ValidationError:  # of a later version
        return [f"what {show_json(caveat)} means, which this version cannot read"]
