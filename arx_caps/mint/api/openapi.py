# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 document of the mint's HTTP API.  CONTROL 4.1.

Routes are defined in ``endpoint`` and ``routes``, and described here from their types.
"""

import http
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from arx_caps.mint.api.endpoint import Bytes, Endpoint, File, NoBody
from arx_caps.mint.api.idempotency import HEADER
from arx_caps.mint.api.problems import Problem, find_code
from arx_caps.mint.context import VERSION

PATH: Final = "/openapi.json"
SCHEME: Final = "dpop"
FORM: Final = "application/x-www-form-urlencoded"
_REF: Final = "#/components/schemas/{name}"
Named: TypeAlias = dict[Any, dict[str, Any]]  # the schema of each type
_PROBLEM: Final = "application/problem+json"
_MEMBER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")  # a parameter of a path, in Starlette's form
_SECURITY: Final = {
    "type": "http",
    "scheme": "DPoP",
    "description": (
        "`Authorization: DPoP TOKEN` with the token of a session or of an operator, and in the header `DPoP` a proof "
        "of RFC 9449 for this call (`htm`, `htu`, `iat`, `jti`, `ath`), signed with Ed25519 by the key that the "
        "token is bound to. A call with an assertion in its body has the proof alone."
    ),
}
_BINARY: Final = {"type": "string", "format": "binary"}  # a body or an answer that is not JSON
_PROOF: Final = {
    "name": "DPoP",
    "in": "header",
    "required": True,
    "description": "A proof of RFC 9449 for this call, signed by the caller's key; accepted once.",
    "schema": {"type": "string"},
}


_ONCE: Final = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A fresh random text. The call takes effect once; a repeat within a day gets the same answer.",
    "schema": {"type": "string", "pattern": "^[!#-~]{1,64}$"},
}


_HEADERS: Final = {
    "Retry-After": {
        "required": True,
        "description": "Seconds to wait before a retry.",
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
    """A route without authentication, as it is described.

    Attributes:
        path: The path.
        summary: The operation's summary.
        answers: The type of the answer for each status; None for text.
        problems: The codes of its refusals, beside ``internal``.
        method: The HTTP method.
        form: The members of a form that it takes, with what each is; empty for none.
        query: The members of a query that it takes, with what each is; empty for none.
        media: The media type of an answer without a type.
        body: The type of a JSON body that it takes, or None.
    """

    path: str
    summary: str
    answers: dict[int, type | None]
    problems: tuple[str, ...] = ()
    method: str = "GET"
    form: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    media: str = "text/plain"
    body: type | None = None


def describe(endpoints: Sequence[Endpoint], opened: Sequence[OpenRoute], *, issuer: str) -> dict[str, Any]:
    """Return the document.

    Args:
        endpoints: Every authenticated route.
        opened: Every other route.
        issuer: The mint's public base URL.

    Returns:
        The document, of JSON values.
    """
    # From the table that is served: nothing is written down twice, so description and routes cannot differ.
    bodies = {endpoint.body for endpoint in endpoints} - {NoBody, Bytes}
    types: list[Any] = [Problem, *{endpoint.answer for endpoint in endpoints} - {File}, *bodies]
    types += {kind for route in opened for kind in (*route.answers.values(), route.body) if kind is not None}
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    named = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = _MEMBER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, named)
    for route in opened:
        paths.setdefault(route.path, {})[route.method.lower()] = _open_operation(route, named)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ARx mint",
            "version": VERSION,
            "summary": "Identities, sessions and tasks of AI agents, and their revocation.",
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
    # The first segment after /v1.
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
        bound = f"At most {endpoint.limit} bytes"
        bound += "." if endpoint.body is Bytes else "; unknown members are refused."
        operation["requestBody"] = {"required": True, "content": content, "description": bound}
    done = {"description": http.HTTPStatus(endpoint.status).phrase}
    kind = "*/*" if endpoint.answer is File else "application/json"
    done["content"] = {kind: {"schema": named.get(endpoint.answer, _BINARY)}}  # type: ignore[assignment]  # text beside a table
    operation["responses"] = {str(endpoint.status): done, **_refusals(endpoint.codes)}
    return operation


def _security(endpoint: Endpoint) -> list[dict[str, list[str]]]:
    """Return the security of an operation: a token, none, or either for services and others."""
    token: dict[str, list[str]] = {SCHEME: []}
    # A service has no token, and a caller with an assertion has none yet: their proof is a header parameter.
    if endpoint.action is None or endpoint.callers == ("service",):
        return []
    return [token, {}] if "service" in endpoint.callers else [token]


def _open_operation(route: OpenRoute, named: Named) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, kind in route.answers.items():
        schema = {route.media: {"schema": {"type": "string"}}}
        if kind is not None:
            schema = {"application/json": {"schema": named.get(kind, {"type": "object"})}}
        answers[str(status)] = {"description": http.HTTPStatus(status).phrase, "content": schema}
        if status == http.HTTPStatus.SEE_OTHER:  # has no body
            location = {"Location": {"required": True, "schema": {"type": "string"}}}
            answers[str(status)] = {"description": http.HTTPStatus(status).phrase, "headers": location}
    name = re.sub(r"\W+", "_", route.path).strip("_")
    name += f"_{route.method.lower()}" if route.query or route.media == "text/html" else ""
    operation: dict[str, Any] = {"operationId": name, "summary": route.summary, "tags": ["open"], "security": []}
    text = {"type": "string"}
    members = _path_members(route.path) + [
        {"name": name, "in": "query", "required": False, "description": what, "schema": text}
        for name, what in route.query.items()
    ]
    if route.form:
        properties = {name: {"type": "string", "description": text} for name, text in route.form.items()}
        content = {FORM: {"schema": {"type": "object", "properties": properties}}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.body is not None:
        content = {"application/json": {"schema": named[route.body]}}
        operation["requestBody"] = {"required": True, "content": content}
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
    _, components = msgspec.json.schema_components([endpoint.query], ref_template=_REF)
    properties: dict[str, Any] = components[endpoint.query.__name__].get("properties", {})
    return [
        # A query has no null: an optional parameter is left out.
        {"name": name, "in": "query", "required": False, "schema": _without_null(schema)}
        for name, schema in properties.items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in schema.items() if value is not None}
    if "enum" in kept:
        kept["enum"] = [value for value in kept["enum"] if value is not None]
    if "anyOf" in kept:
        others = [option for option in kept.pop("anyOf") if option != {"type": "null"}]
        kept |= others[0] if len(others) == 1 else {"anyOf": others}
    return kept


def _refusals(codes: Iterable[str]) -> dict[str, Any]:
    """Return the responses of refusals: one for each status, with its codes."""
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes):
        known = find_code(code)
        assert known is not None, code
        by_status.setdefault(known.status, []).append(code)
    problem = {"$ref": _REF.format(name=Problem.__name__)}
    return {
        str(status): {
            "description": f"{http.HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes_of_status)}",
            "content": {
                _PROBLEM: {"schema": {"allOf": [problem, {"properties": {"code": {"enum": codes_of_status}}}]}},
            },
        }
        | ({"headers": {name: _HEADERS[name] for name in _WITH[status]}} if status in _WITH else {})
        for status, codes_of_status in sorted(by_status.items())
    }
