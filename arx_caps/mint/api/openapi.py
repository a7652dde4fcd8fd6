# SPDX-License-Identifier: Apache-2.0
"""The mint's HTTP API as an OpenAPI 3.1 document, made from the very table that is served.  CONTROL 4.1.

Bodies, queries and answers are described by their structs, refusals by the codes of their endpoint: nothing is written
down twice, so nothing can differ.  What a route does is its handler's first line.
"""

import http
import inspect
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from arx_caps.mint.api.endpoint import Bytes, Endpoint, File, NoBody
from arx_caps.mint.api.idempotency import HEADER
from arx_caps.mint.api.problems import Problem, find_code

PATH: Final = "/openapi.json"
SCHEME: Final = "dpop"
_REF: Final = "#/components/schemas/{name}"
Named: TypeAlias = dict[Any, dict[str, Any]]  # the schema of each type
_PROBLEM: Final = "application/problem+json"
_MEMBER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")  # a path's member, in Starlette's form
_SECURITY: Final = {
    "type": "http",
    "scheme": "DPoP",
    "description": (
        "`Authorization: DPoP TOKEN` with the token of a session or of an operator, and in the header `DPoP` a proof "
        "of RFC 9449 for this very call (`htm`, `htu`, `iat`, `jti`, `ath`), signed with Ed25519 by the key that the "
        "token belongs to. A call that brings an assertion in its body has the proof alone."
    ),
}
_BINARY: Final = {"type": "string", "format": "binary"}  # what is no JSON
_PROOF: Final = {
    "name": "DPoP",
    "in": "header",
    "required": True,
    "description": "A proof of RFC 9449 for this call, made by the caller's key; good once.",
    "schema": {"type": "string"},
}


_ONCE: Final = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A fresh random text: what it asks for is done once, and a repeat within a day answers the same.",
    "schema": {"type": "string", "pattern": "^[!#-~]{1,64}$"},
}


_HEADERS: Final = {
    "Retry-After": {
        "required": True,
        "description": "After so many seconds it may be otherwise.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "WWW-Authenticate": {
        "required": True,
        "description": "The challenge of RFC 9449 7.1.",
        "schema": {"type": "string"},
    },
}
_WITH: Final = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}


class OpenRoute(NamedTuple):
    """A route that needs no proof, as it is described.

    Attributes:
        path: Its path.
        summary: What it answers.
        answers: The type of each status' answer; None for text.
        problems: The codes that it can be refused with, beside ``internal``.
    """

    path: str
    summary: str
    answers: dict[int, type | None]
    problems: tuple[str, ...] = ()


def describe(endpoints: Sequence[Endpoint], opened: Sequence[OpenRoute], *, issuer: str) -> dict[str, Any]:
    """Write the document.

    Args:
        endpoints: Every route that needs a proof.
        opened: Those that need none.
        issuer: The mint's public base URL.

    Returns:
        The document, of JSON values.
    """
    bodies = {each.body for each in endpoints} - {NoBody, Bytes}
    types: list[Any] = [Problem, *{each.answer for each in endpoints} - {File}, *bodies]
    types += {kind for each in opened for kind in each.answers.values() if kind is not None}
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    named = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in endpoints:
        path = _MEMBER.sub(r"{\1}", each.path)
        paths.setdefault(path, {})[each.method.lower()] = _operation(each, named)
    for route in opened:
        paths[route.path] = {"get": _open_operation(route, named)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ARx mint",
            "version": version("arx-caps"),
            "summary": "Identities, sessions and tasks of AI agents, and the end of any of them.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": issuer}],
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(sorted(components.items())), "securitySchemes": {SCHEME: _SECURITY}},
    }


def _operation(endpoint: Endpoint, named: Named) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__.removesuffix("_route"),
        "summary": _summary(endpoint),
    }
    operation["tags"] = [endpoint.path.split("/")[2]]
    operation["security"] = _security(endpoint)
    if endpoint.action is not None:
        operation["description"] = (
            f"For {' and '.join(f'{kind}s' for kind in endpoint.callers)}; a token must allow `{endpoint.action}`."
        )
    operation["parameters"] = [_PROOF, *_path_members(endpoint.path), *_query_members(endpoint)]
    if endpoint.again is not None:
        operation["parameters"].append(_ONCE)
    if endpoint.body is not NoBody:
        content = {endpoint.media_type: {"schema": named.get(endpoint.body, _BINARY)}}
        said = f"At most {endpoint.limit} bytes"
        said += "." if endpoint.body is Bytes else "; no member that is not known."
        operation["requestBody"] = {"required": True, "content": content, "description": said}
    done = {"description": http.HTTPStatus(endpoint.status).phrase}
    kind = "*/*" if endpoint.answer is File else "application/json"
    done["content"] = {kind: {"schema": named.get(endpoint.answer, _BINARY)}}  # type: ignore[assignment]  # text beside a table
    operation["responses"] = {str(endpoint.status): done, **_refusals(endpoint.codes)}
    return operation


def _security(endpoint: Endpoint) -> list[dict[str, list[str]]]:
    """Say whether there is a token: a service has none, and whoever brings an assertion has none yet."""
    token: dict[str, list[str]] = {SCHEME: []}
    if endpoint.action is None or endpoint.callers == ("service",):
        return []
    return [token, {}] if "service" in endpoint.callers else [token]


def _open_operation(route: OpenRoute, named: Named) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, kind in route.answers.items():
        schema = {"text/plain": {"schema": {"type": "string"}}}
        if kind is not None:
            schema = {"application/json": {"schema": named.get(kind, {"type": "object"})}}
        answers[str(status)] = {"description": http.HTTPStatus(status).phrase, "content": schema}
    name = re.sub(r"\W+", "_", route.path).strip("_")
    operation = {"operationId": name, "summary": route.summary, "tags": ["open"], "security": []}
    members = _path_members(route.path)
    return (
        operation
        | ({"parameters": members} if members else {})
        | {"responses": answers | _refusals(("internal", *route.problems))}
    )


def _summary(endpoint: Endpoint) -> str:
    return (inspect.getdoc(endpoint.handler) or "").partition("\n")[0]


def _path_members(path: str) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1}
    names = _MEMBER.findall(path)
    return [{"name": name, "in": "path", "required": True, "schema": text} for name in names]


def _query_members(endpoint: Endpoint) -> list[dict[str, Any]]:
    _, found = msgspec.json.schema_components([endpoint.query], ref_template=_REF)
    properties: dict[str, Any] = found[endpoint.query.__name__].get("properties", {})
    return [
        # A query has no null: what may be left out is left out.
        {"name": name, "in": "query", "required": False, "schema": _without_null(schema)}
        for name, schema in properties.items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in schema.items() if value is not None}
    if "enum" in kept:
        kept["enum"] = [value for value in kept["enum"] if value is not None]
    if "anyOf" in kept:
        others = [each for each in kept.pop("anyOf") if each != {"type": "null"}]
        kept |= others[0] if len(others) == 1 else {"anyOf": others}
    return kept


def _refusals(codes: Iterable[str]) -> dict[str, Any]:
    """Describe what a call can be refused with: one answer a status, which names its codes."""
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes):
        known = find_code(code)
        assert known is not None, code
        by_status.setdefault(known.status, []).append(code)
    problem = {"$ref": _REF.format(name=Problem.__name__)}
    return {
        str(status): {
            "description": f"{http.HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in found)}",
            "content": {
                _PROBLEM: {"schema": {"allOf": [problem, {"properties": {"code": {"enum": found}}}]}},
            },
        }
        | ({"headers": {name: _HEADERS[name] for name in _WITH[status]}} if status in _WITH else {})
        for status, found in sorted(by_status.items())
    }
