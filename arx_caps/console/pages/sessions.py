# SPDX-License-Identifier: Apache-2.0
"""*Sessions* and *Session*: who works now, the delegation tree with what each delegation removed, and the decisions."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus, urlencode

import msgspec
from starlette.responses import Response

from arx_caps.console import timeline
from arx_caps.console.command import command
from arx_caps.console.gauge import Gauge, PoolsView, gauges_of, look_at_budgets, show_budgets
from arx_caps.console.live import StreamEvent
from arx_caps.console.timeline import TimelineRecord
from arx_caps.console.tree import draw, name_of
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.events.trail import READ as READ_AUDIT
from arx_caps.mint.api.routes.events.trail import list_records
from arx_caps.mint.api.routes.work.approvals import list_approvals
from arx_caps.mint.api.routes.work.marks import Marks, lift_mark, list_session_marks
from arx_caps.mint.api.routes.work.session_tree import SessionTree, TreeNode, get_session_tree, tree_of
from arx_caps.mint.api.routes.work.sessions import SessionsQuery, get_session, list_sessions, sessions_of
from arx_caps.mint.api.views import SessionShown, show_session
from arx_caps.mint.context import MintContext
from arx_caps.text.trail import TrailLine
from arx_verifier.errors import StoreError

HOME: Final = "/console/sessions"
READ: Final = "arx.sessions.read"
FILTERS: Final = ("text", "agent", "subject", "template", "state")
STATES: Final = ("open", "frozen", "killed", "ended", "expired")
ZOOMS: Final = ("compact", "decisions", "all")
OUTCOMES: Final = ("deny", "allow", "event")
SHOWN: Final = 50
RECORDS: Final = 200
EVERY_S: Final = 2.0


class MarksView(NamedTuple):
    """The marks of a session; None if the ledger does not answer, for the reason ``problem``."""

    found: Marks | None = None
    problem: str = ""

    @property
    def names(self) -> list[str]:
        """The names that can be lifted."""
        return [] if self.found is None or self.found.lost else sorted({mark.mark for mark in self.found.marks})


def show_list(visit: Visit) -> Response:
    """List the sessions that match the filters, the newest first."""
    found = visit.call(list_sessions, query=_asked(visit) | {"after": visit.query.get("after")})
    filters = {name: visit.query.get(name, "") for name in FILTERS}
    return visit.render(
        "sessions.html",
        title="Sessions",
        command=command("session list", filters),
        filters=filters,
        states=STATES,
        after=visit.query.get("after"),
        filtered=any(filters.values()),
        live=f"{HOME}/live?{urlencode(filters)}" if "after" not in visit.query else None,
        found=found,
    )


def stream_list(visit: Visit) -> Response:
    """Stream the first page of the sessions that match the filters."""
    query = _asked(visit)
    visit.call(list_sessions, query=query)
    filtered = any(name in query for name in FILTERS)
    mint, typed = visit.mint, msgspec.convert(query, SessionsQuery, strict=False)
    broadcast = visit.live.broadcast(
        f"{HOME}?{urlencode(sorted(query.items()))}", lambda: [sessions_of(mint, typed)], EVERY_S
    )
    return visit.stream(
        broadcast,
        lambda found, _: StreamEvent(visit.fragment("sessions_rows.html", filtered=filtered, after=None, found=found)),
    )


def show_one(visit: Visit) -> Response:
    """Show a session: its facts, tree, timeline, tasks and approvals."""
    path = {"session": visit.request.path_params["session"]}
    found = visit.call(get_session, path=path)
    tree: SessionTree | None = None
    with contextlib.suppress(StoreError):  # in an emergency, an operator must see a session without the log
        tree = visit.call(get_session_tree, path=path)
    budgets = show_budgets(visit, found.session.id)
    marks = MarksView()
    if visit.mint.ledger is not None:
        try:
            marks = MarksView(visit.call(list_session_marks, path=path))
        except StoreError as error:
            marks = MarksView(problem=str(error))
    approvals = visit.call(list_approvals, query=path | {"limit": 20}).approvals if visit.may(_APPROVALS) else None
    return visit.render(
        "session.html",
        title=f"Session {found.session.id}",
        command=f"arx session show {found.session.id}",
        tasks=found.tasks,
        more_tasks=bool(found.next),
        approvals=approvals,
        marks=marks,
        **_tree_values(visit, found.session, tree, budgets),
        **_timeline_values(visit, tree),
    )


def lift(visit: Visit) -> Response:
    """Lift a mark of a session, and lead to what is left."""
    path = {"session": visit.request.path_params["session"]}
    visit.call(lift_mark, path=path, body={name: visit.form.get(name, "").strip() for name in ("mark", "reason")})
    return visit.redirect(f"{HOME}/{path['session']}#marks")


def stream_one(visit: Visit) -> Response:
    """Stream a session's state and tree."""
    path = {"session": visit.request.path_params["session"]}
    session = visit.call(get_session, path=path).session
    show_budgets(visit, session.id)  # recorded once: whether this operator may see them
    mint, last = visit.mint, [b""]
    broadcast = visit.live.broadcast(f"{HOME}/{session.id}", lambda: _look(mint, session.id), EVERY_S)

    def show(seen: tuple[SessionShown, SessionTree, PoolsView], _: int) -> StreamEvent | None:
        # Only when it changed: a large drawing is not sent again for the age of its session.
        state = msgspec.json.encode(seen)
        if state == last[0]:
            return None
        last[0] = state
        return StreamEvent(visit.fragment("session_live.html", **_tree_values(visit, *seen)))

    return visit.stream(broadcast, show)


def _look(mint: MintContext, session: str) -> list[tuple[SessionShown, SessionTree, PoolsView]]:
    row = mint.db.sessions.find(session)
    if row is None:
        return []
    return [(show_session(mint.kills, row), tree_of(mint, row), look_at_budgets(mint, session))]


def _asked(visit: Visit) -> dict[str, Any]:
    asked = {name: visit.query[name] for name in FILTERS if visit.query.get(name)}
    return {**asked, "limit": SHOWN, "counts": "true"}


def _tree_values(visit: Visit, session: SessionShown, tree: SessionTree | None, budgets: PoolsView) -> dict[str, Any]:
    nodes = tree.nodes if tree is not None else []
    gauges, own = gauges_of(budgets), dict[str, list[Gauge]]()
    for one in gauges:
        own.setdefault(one.pool.link or one.pool.task, []).append(one)
    selected = _selected(visit, nodes)
    home = f"{HOME}/{session.id}"
    kept = {"list": "1"} if "list" in visit.query else {}
    to_node = f"{home}?{urlencode(kept | {'node': ''})}"
    return {
        "session": session,
        "tree": tree,
        "budgets": budgets,
        "gauges": gauges,
        "own": own,
        "drawing": draw(nodes, lambda place: f"{to_node}{quote_plus(nodes[place].ref)}#holder", selected),
        "outline": _outline(nodes),
        "names": [name_of(node) for node in nodes],
        "holders": {node.ref: name_of(node) for node in nodes},
        "home": home,
        # Whether the list is open, and the holder: links and the stream keep both.
        "kept": kept,
        "opened": {"node": nodes[selected].ref} if selected is not None else {},
        "selected": selected,
        "allowed": sum(node.allowed for node in nodes),
        "denied": sum(node.denied for node in nodes),
        "delegations": sum(node.kind == "link" for node in nodes),
    }


def _selected(visit: Visit, nodes: Sequence[TreeNode]) -> int | None:
    wanted = visit.query.get("node")
    return next((place for place, node in enumerate(nodes) if node.ref == wanted), None)


def _outline(nodes: Sequence[TreeNode]) -> list[tuple[int, int]]:
    """Return the place of each node with its depth, each node before those below it."""
    below: dict[int | None, list[int]] = {}
    for place, node in enumerate(nodes):
        below.setdefault(node.parent, []).append(place)
    # Not recursive: a chain of delegations may be long, and a template that calls itself is freed late.
    outline: list[tuple[int, int]] = []
    waiting = [(place, 0) for place in reversed(below.get(None, []))]
    while waiting:
        place, depth = waiting.pop()
        outline.append((place, depth))
        waiting += [(child, depth + 1) for child in reversed(below.get(place, []))]
    return outline


def _timeline_values(visit: Visit, tree: SessionTree | None) -> dict[str, Any]:
    zoom = visit.query.get("zoom", ZOOMS[0])
    zoom = zoom if zoom in ZOOMS else ZOOMS[0]
    outcome = visit.query.get("outcome", "")
    values = {
        "zoom": zoom,
        "zooms": ZOOMS,
        "outcome": outcome,
        "outcomes": OUTCOMES,
        "may_read": visit.may(READ_AUDIT),
    }
    if not values["may_read"] or tree is None:
        return {**values, "lines": [], "strip": "", "older": None}
    selected = _selected(visit, tree.nodes)
    which = {"session": visit.request.path_params["session"]}
    if selected is not None and (node := tree.nodes[selected]).kind != "session":
        which = {"link" if node.kind == "link" else "task": node.ref}
    # Without events, the calls: what the holders did.  The filter is the log's, so that a page is full.
    asked = {"reason": outcome, "before": visit.query.get("before"), "limit": RECORDS}
    found = visit.call(list_records, query=which | asked)
    lanes = {row: place for place, node in enumerate(tree.nodes) for row in node.log_nodes}
    records = [_timeline_record(record, lanes, tree.nodes) for record in found.records]
    # The log has the records of several services, each in its own order.
    records.sort(key=lambda record: -record.at)
    if zoom != "all":
        records = [each for each in records if each.outcome != "event" or outcome == "event"]
    lines = (
        list(timeline.compact(records)) if zoom == "compact" else [timeline.Line([each], each.tool) for each in records]
    )
    strip = timeline.draw_strip(records)
    return {**values, "lines": lines, "strip": strip, "older": found.next, "total_records": found.total}


def _timeline_record(record: Mapping[str, Any], lanes: Mapping[int, int], nodes: Sequence[TreeNode]) -> TimelineRecord:
    line = TrailLine.of(record)
    lane = lanes.get(record["node"])
    # A node that is not in the tree is one that a service put under another agent.
    holder = name_of(nodes[lane]) if lane is not None else str(record.get("agent") or record.get("by") or "unknown")
    code, why = line.why
    return TimelineRecord(
        number=record["index"],
        at=line.at,
        outcome=line.outcome,
        tool=str(record.get("tool") or record.get("kind") or "(no tool)"),
        service=str(record.get("audience") or record.get("service") or record.get("by") or ""),
        lane=lane,
        holder=holder,
        code=code,
        why=why,
        sets=", ".join(record.get("marks", ())),
    )


_APPROVALS: Final = "arx.approvals.read"
PAGES: Final = (
    Page("GET", HOME, show_list),
    Page("GET", f"{HOME}/live", stream_list),
    Page("GET", f"{HOME}/{{session}}", show_one),
    Page("GET", f"{HOME}/{{session}}/live", stream_one),
    Page("POST", f"{HOME}/{{session}}/marks", lift),
)
