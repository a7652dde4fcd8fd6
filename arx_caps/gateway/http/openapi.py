# SPDX-License-Identifier: Apache-2.0
"""The routes of a plain HTTP service, with their tools, from its OpenAPI 3 document.

An operation is the tool of its ``operationId``.  Its arguments are its parameters in path and query, and the members of
its body, as ``arx_verifier.enforcement`` maps every request.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from arx_caps.http.openapi import Operation, operations_of, resolved
from arx_verifier.errors import SettingsError
from arx_verifier.names import is_tool

_KINDS: Final = {"integer": ":int", "number": ":number", "array": ":list"}  # of an argument in path or query; else text
_BODIES: Final = ("application/json", "multipart/form-data")
# They choose a form of the answer, or whether and how often it is sent: not what is done.
_HARMLESS: Final = frozenset(
    (
        *("accept", "accept-language", "content-type", "user-agent", "if-match", "if-none-match", "if-modified-since"),
        *("idempotency-key", "range", "traceparent", "tracestate", "x-request-id", "x-correlation-id"),
        *("authorization", "cookie"),  # never forwarded
    )
)


def read_routes(file: Path, audience: str) -> dict[str, str]:
    """Return the tool of each route of a document.

    Args:
        file: The document, JSON.
        audience: What each tool begins with.

    Raises:
        SettingsError: It cannot be read, or an operation has no tool, or arguments that no rule could see.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{file}: expected an OpenAPI document in JSON: {error}") from None
    try:
        return _read(document, audience)
    except ValueError as error:
        raise SettingsError(f"{file}: {error}") from None
    except (AttributeError, TypeError, RecursionError) as error:
        # Each member is used as OpenAPI describes it: one of another type is a mistake of the document.
        raise SettingsError(f"{file}: expected an OpenAPI document, got a member of another type: {error}") from None


def _read(document: dict[str, Any], audience: str) -> dict[str, str]:
    routes: dict[str, str] = {}
    for operation in operations_of(document):
        place, path = operation.place, operation.path
        tool = f"{audience}.{operation.about.get('operationId') or ''}"
        if not is_tool(tool):
            raise ValueError(f"{place}: operationId: expected a name of [A-Za-z0-9_.-], got {tool!r:.100}")
        if tool in routes.values():
            raise ValueError(f"{place}: operationId: {tool} is that of another operation as well")
        kinds = _kinds(document, operation)
        _check_body(document, operation.about.get("requestBody", {}), place)
        query = "&".join(f"{{{name}{kind}}}" for (where, name), kind in kinds.items() if where == "query")
        for (where, name), kind in kinds.items():
            path = path.replace(f"{{{name}}}", f"{{{name}{kind}}}") if where == "path" else path
        routes[f"{operation.method} {path}{'?' if query else ''}{query}"] = tool
    return routes


def _kinds(document: Mapping[str, Any], operation: Operation) -> dict[tuple[str, str], str]:
    """Return the kind of each argument, by place and name, as a line of a route table has it.

    Raises:
        ValueError: A parameter is no argument of its own in one spelling.
    """
    kinds: dict[tuple[str, str], str] = {}
    for (where, name), parameter in operation.parameters.items():
        at = f"{operation.place}: {name}"
        if where in ("header", "cookie"):
            if parameter.get("required") or (where == "header" and name.lower() not in _HARMLESS):
                raise ValueError(f"{at}: a {where} is no argument, so no rule could apply to it")
            continue
        if where not in ("path", "query") or name in {other for _, other in kinds}:
            raise ValueError(f"{at}: expected one argument of this name, in path or query")
        kind = _kind(document, parameter.get("schema", {}), at)
        style = (parameter.get("style"), parameter.get("explode"))
        simple = style in ((None, None), ("form", None), (None, True), ("form", True)) or not kind
        if "content" in parameter or kind is None or not simple or (where == "path" and kind == ":list"):
            raise ValueError(f"{at}: expected text, a number, or a list that repeats its name, as tag=a&tag=b")
        kinds[where, name] = kind
    return kinds


def _kind(document: Mapping[str, Any], schema: Any, place: str) -> str | None:
    """Return the kind of an argument in path or query; None for one that has no single spelling there."""
    found = resolved(document, schema, place)
    choices = found.get("anyOf") or found.get("oneOf") or found.get("allOf")
    if choices and "type" not in found:
        kinds = {_kind(document, each, place) for each in choices if each != {"type": "null"}}
        return kinds.pop() if len(kinds) == 1 else None if kinds & {None, ":list"} else ""
    types = found.get("type", "string")
    types = {each for each in (types if isinstance(types, list) else [types]) if each != "null"}
    if "object" in types or (len(types) > 1 and "array" in types):
        return None
    return _KINDS.get(types.pop(), "") if len(types) == 1 else ""


def _check_body(document: Mapping[str, Any], body: Any, place: str) -> None:
    """Raise for a body that is no object of arguments."""
    content = resolved(document, body, place).get("content", {})
    read = {kind: media for kind, media in content.items() if kind in _BODIES or kind.endswith("+json")}
    if content and not read:
        raise ValueError(f"{place}: expected a body of {' or '.join(_BODIES)}, got {', '.join(content)}")
    for kind, media in read.items():
        schema = resolved(document, resolved(document, media, place).get("schema", {}), place)
        if schema.get("type", "object") != "object":
            raise ValueError(f"{place}: {kind}: expected an object of arguments, got {schema['type']}")
