# SPDX-License-Identifier: Apache-2.0
"""What a question of AuthZEN is about: the tool and its arguments, and whom its subject names.

Messages of MCP are mapped as the COAZ binding for MCP does (draft 1), requests of HTTP by the decider's routes, and
others by its table ``actions``.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from arx_caps.gateway.base.settings import ActionTerms
from arx_caps.gateway.http import door as http_door
from arx_verifier.enforcement.base.routes import RouteMap
from arx_verifier.enforcement.mcp.messages import mcp_meaning
from arx_verifier.errors import RequestError
from arx_verifier.journal.record import ChainFacts
from arx_verifier.request import UNSEEN_BODY, HttpCall

Object = dict[str, Any]

# The type of the resource of each message of MCP, and the parameter that its id is.
_MCP: Final = {
    "tools/call": ("tool", "name"),
    "prompts/get": ("prompt", "name"),
    "resources/read": ("resource", "uri"),
    "resources/subscribe": ("resource", "uri"),
    "resources/unsubscribe": ("resource", "uri"),
} | dict.fromkeys(
    ("initialize", "logging/setLevel", "tools/list", "resources/list", "prompts/list"), ("mcp_server", "")
)


_TARGET: Final = re.compile(r"/[!-~]*")
_NO_BODY: Final = sha256(b"").digest()


class Entity(msgspec.Struct, frozen=True):
    """A subject or a resource.  AuthZEN 5.1, 5.2."""

    type: str
    id: str
    properties: Object = {}


class AuthZenAction(msgspec.Struct, frozen=True):
    """An action.  AuthZEN 5.3."""

    name: str
    properties: Object = {}


class AuthZenQuestion(msgspec.Struct, frozen=True):
    """An access evaluation request.  AuthZEN 6.1."""

    subject: Entity
    action: AuthZenAction
    resource: Entity
    context: Object = {}

    def __repr__(self) -> str:
        return "<AuthZenQuestion>"  # its context has a credential


class QuestionMeaning(NamedTuple):
    """The call that a question is about.

    Attributes:
        tool: The tool; empty for a message that calls none.
        args: Its arguments.
        http: What its signature covers; None if that is the tool and the arguments.
    """

    tool: str
    args: Object
    http: HttpCall | None = None


def meaning_of(
    audience: str, actions: Mapping[str, ActionTerms], routes: RouteMap, asked: Object, question: AuthZenQuestion
) -> QuestionMeaning | None:
    """Return the call that a question is about; None if its action has no tool.

    Args:
        audience: The decider's audience.
        actions: The tools of actions on types of resources.
        routes: The tools of requests of HTTP.
        asked: The question as it was sent.
        question: The same, with its types checked.

    Raises:
        RequestError: It names what has no single meaning.
    """
    terms = actions.get(f"{question.action.name} {question.resource.type}")
    if terms is not None:
        found = {name: _at(asked, path) for name, path in terms.args.items()}
        return QuestionMeaning(terms.tool, {name: value for name, value in found.items() if value is not msgspec.UNSET})
    if question.resource.type == "http":
        return _of_request(routes, question.action.name, question.resource.id)
    method = question.action.name
    if method not in _MCP or _MCP[method][0] != question.resource.type:
        return None
    _, parameter = _MCP[method]
    params: Object = {parameter: question.resource.id} if parameter else {}
    is_unseen = parameter == "name" and "arguments" not in question.action.properties
    if parameter == "name" and not is_unseen:
        params["arguments"] = question.action.properties["arguments"]
    tool, args = mcp_meaning(audience, method, params)
    # No request has this method: what is signed for an unseen call of this tool is no other call's signature.
    return QuestionMeaning(tool, args, HttpCall("AUTHZEN", tool, UNSEEN_BODY) if is_unseen else None)


def _of_request(routes: RouteMap, method: str, target: str) -> QuestionMeaning | None:
    """Return the call that a request of HTTP is, whose body a question does not show; SPEC 8.5."""
    if not _TARGET.fullmatch(target) or not method.isascii():
        raise RequestError("resource.id: expected path and query as the client sent them")
    path, _, query = target.encode().partition(b"?")
    text = unquote(path.decode())
    scope = {"type": "http", "method": method, "path": text, "raw_path": path, "query_string": query, "root_path": ""}
    found = http_door.meaning_of(routes, scope | {"headers": []}, b"")
    digest = _NO_BODY if method in ("GET", "HEAD") else UNSEEN_BODY  # SPEC 8.4
    return found and QuestionMeaning(found[0], dict(found[1]), HttpCall(method, target.encode(), digest))


def names_holder(subject: Entity, facts: ChainFacts, subjects: Mapping[str, str]) -> bool:
    """Return whether a subject is the one of a credential.

    Args:
        subject: The subject.
        facts: What is known of the credential.
        subjects: What stands before the id of an agent, by types of subjects.
    """
    if subject.type in subjects:
        return subjects[subject.type] + subject.id == facts.agent
    if subject.type == "identity" and subject.id.startswith("agent:"):  # COAZ: the claim `sub` of an access token
        return subject.id.removeprefix("agent:") == facts.agent
    return subject.type == "user" and facts.subject is not None and facts.subject[1] == subject.id


def _at(asked: Object, path: str) -> Any:
    value: Any = asked
    for name in path.split("."):
        if type(value) is not dict or name not in value:
            return msgspec.UNSET
        value = value[name]
    return value
