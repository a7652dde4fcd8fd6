# SPDX-License-Identifier: Apache-2.0
"""*Find*: the page of an id or a name, whatever it names.  The field at the top of each page leads here."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from starlette.responses import Response

from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.events.trail import list_nodes, list_records
from arx_caps.mint.api.routes.identity.agents import get_agent, list_agents
from arx_caps.mint.api.routes.identity.operators import get_operator
from arx_caps.mint.api.routes.identity.services import get_service
from arx_caps.mint.api.routes.operations.kills import get_kill
from arx_caps.mint.api.routes.operations.policy import get_policy
from arx_caps.mint.api.routes.work.approvals import get_approval
from arx_caps.mint.api.routes.work.sessions import get_session, list_sessions
from arx_caps.mint.api.routes.work.tasks import get_task
from arx_verifier.errors import ArxError, RequestError, StoreError
from arx_verifier.names import is_agent_path, is_id

PATH: Final = "/console/find"
MAX_CHARS: Final = 512  # a person with an issuer is the longest that is looked for
_MAX_TEXT: Final = 100  # of the search for sessions
_LINK: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_NUMBER: Final = re.compile(r"[0-9]{1,15}")


class Match(NamedTuple):
    """A page that fits what was looked for: what it shows, its name, and its address."""

    what: str
    name: str
    path: str


def show_find(visit: Visit) -> Response:
    """Lead to the only page that an id or a name fits; show a choice of several, or what can be looked for."""
    text = visit.query.get("id", "").strip()
    if len(text) > MAX_CHARS:
        raise RequestError(f"invalid id: expected at most {MAX_CHARS} characters, got {len(text)}")
    problems: list[ArxError] = []
    matches = list(_matches(visit, text, problems)) if text else []
    if problems and not matches:  # what could not be looked up may exist
        raise problems[0]
    if len(matches) == 1:
        return visit.redirect(matches[0].path)
    return visit.render("find.html", 404 if text and not matches else 200, title="Find", text=text, matches=matches)


def _matches(visit: Visit, text: str, problems: list[ArxError]) -> Iterator[Match]:
    """Yield the pages of a text; those of one kind for a target such as ``session:s-…``."""
    kind, colon, name = text.partition(":")
    if kind == "task" and name.startswith("a-"):  # the target of an approval
        kind = "approval"
    if colon and kind in _KINDS:
        yield from _of_kind(visit, kind, name.strip(), problems)
    elif kind == "subject" or " " in text:
        yield from _people(visit, text)
    elif _NUMBER.fullmatch(number := text.lstrip("#").replace("\u202f", "").replace(",", "")):
        for kind in ("record", "kill"):
            yield from _of_kind(visit, kind, number, problems)
    else:
        yield from _named(visit, text, problems)


def _named(visit: Visit, text: str, problems: list[ArxError]) -> Iterator[Match]:
    """Yield the pages of what has exactly this id or name; else the lists of what has it as a part."""
    kinds = [kind for kind in _KINDS if kind not in ("record", "kill")]
    exact = [match for kind in kinds for match in _of_kind(visit, kind, text, problems)]
    yield from exact
    if any(match.what not in ("operator", "service") for match in exact):
        return
    below = is_agent_path(text) and visit.may("arx.agents.read")
    if below and visit.call(list_agents, query={"under": text, "limit": 1}).agents:
        yield Match("agents", f"those below {text}", _address("agents", under=text))
    yield from _sessions_with(visit, text)


def _people(visit: Visit, text: str) -> Iterator[Match]:
    """Yield the records of a person: ``subject:…``, or an issuer and a subject; and the sessions with the text."""
    issuer, _, subject = text.partition(" ")
    if visit.may("arx.audit.read") and (text.startswith("subject:") or ("://" in issuer and subject)):
        yield Match("person", text, _address("search", person=text))
    else:
        yield from _sessions_with(visit, text)


def _sessions_with(visit: Visit, text: str) -> Iterator[Match]:
    if len(text) <= _MAX_TEXT and visit.may("arx.sessions.read"):
        found = visit.call(list_sessions, query={"text": text, "limit": 2}).sessions
        if len(found) == 1:
            yield Match("session", found[0].id, _page("sessions", found[0].id))
        elif found:
            yield Match(
                "sessions", f"those with {text} in agent, purpose, person or id", _address("sessions", text=text)
            )


def _of_kind(visit: Visit, kind: str, name: str, problems: list[ArxError]) -> Iterator[Match]:
    """Yield the page of a name, if it can be that kind's, exists, and is for the operator to read."""
    action, fits, find = _KINDS[kind]
    if not name or not fits(name) or not visit.may(action):
        return
    try:
        path = find(visit, name)
    except StoreError as error:  # the other kinds may be elsewhere
        problems.append(error)
        return
    except ArxError as error:
        if error.code != "not_found" and not isinstance(error, RequestError):
            raise
        return
    if path:
        yield Match(kind, name, path)


def _session(visit: Visit, name: str) -> str:
    return _page("sessions", visit.call(get_session, path={"session": name}).session.id)


def _task(visit: Visit, name: str) -> str:
    task = visit.call(get_task, path={"task": name}).task
    return _holder(task.session, task.id)


def _link(visit: Visit, name: str) -> str:
    """Return the holder of a link: a delegation, or the task whose grant begins with it."""
    nodes = visit.call(list_nodes, query={"link": name}).nodes
    for node in nodes:
        if node["ref"] == name:
            return _holder(node["session"], name)
    tasks = [node for node in nodes if node["kind"] == "task"]
    return _holder(tasks[0]["session"], tasks[0]["ref"]) if tasks else ""


def _record(visit: Visit, name: str) -> str:
    found = visit.call(list_records, query={"before": int(name) + 1, "limit": 1}).records
    return _page("decisions", name) if found and found[0]["index"] == int(name) else ""


def _operator(visit: Visit, name: str) -> str:
    # As a target, ``operator:NAME``, it is the name of the operator in the records of the log.
    operator = visit.call(get_operator, path={"name": name.removeprefix("operator:")})
    return _address("search", agent=f"operator:{operator.name}")


def _page(page: str, name: str) -> str:
    return f"/console/{page}/{quote(name)}"


def _holder(session: str, ref: str) -> str:
    """Return the address of a holder in its session's tree."""
    return f"{_page('sessions', session)}?{urlencode({'node': ref})}#holder"


def _address(page: str, **query: str) -> str:
    return f"/console/{page}?{urlencode(query)}"


def _page_of(page: str, handler: Callable[..., Any], member: str) -> Callable[[Visit, str], str]:
    """Return what finds the page of a name that one call of the API shows."""

    def find(visit: Visit, name: str) -> str:
        visit.call(handler, path={member: name})
        return _page(page, name)

    return find


def _service(visit: Visit, name: str) -> str:
    visit.call(get_service, path={"audience": name})
    return "/console/verifiers"


# Of each kind: the action that its page needs, whether a text can name one, and what finds its page.
_KINDS: Final[Mapping[str, tuple[str, Callable[[str], object], Callable[[Visit, str], str]]]] = {
    "session": ("arx.sessions.read", lambda name: name.startswith("s-") and is_id(name), _session),
    "task": ("arx.tasks.read", lambda name: name.startswith("t-") and is_id(name), _task),
    "approval": (
        "arx.approvals.read",
        lambda name: name.startswith("a-") and is_id(name),
        _page_of("approvals", get_approval, "approval"),
    ),
    "link": ("arx.audit.read", _LINK.fullmatch, _link),
    "policy": ("arx.policy.read", _LINK.fullmatch, _page_of("policy", get_policy, "digest")),
    "agent": ("arx.agents.read", is_agent_path, _page_of("agents", get_agent, "path")),
    "operator": ("arx.operators.read", lambda name: len(name) <= 64 and name.isascii(), _operator),
    "service": ("arx.services.read", is_id, _service),
    "record": ("arx.audit.read", _NUMBER.fullmatch, _record),
    "kill": ("arx.kills.read", _NUMBER.fullmatch, _page_of("kills", get_kill, "seq")),
}
PAGES: Final = (Page("GET", PATH, show_find),)
