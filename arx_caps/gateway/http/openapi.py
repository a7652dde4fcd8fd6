# SPDX-License-Identifier: Apache-2.0
"""The routes of a plain HTTP service, with their tools, from its OpenAPI 3 document.

An operation is the tool of its ``operationId``.  Its arguments are its parameters in path and query, and the members of
its body, as ``arx_verifier.enforcement`` maps every request.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from arx_verifier.errors import SettingsError
from arx_verifier.names import is_tool

_METHODS: Final = ("get", "put", "post", "delete", "patch", "head", "options")
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
    if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith("3."):
        raise SettingsError(f"{file}: expected an OpenAPI document of version 3")
    try:
        return _read(document, file, audience)
    except (AttributeError, TypeError, RecursionError) as error:
        # Each member is used as OpenAPI describes it: one of another type is a mistake of the document.
        raise SettingsError(f"{file}: expected an OpenAPI document, got a member of another type: {error}") from None


def _read(document: dict[str, Any], file: Path, audience: str) -> dict[str, str]:
    routes: dict[str, str] = {}
    for method, path, operation, shared in _operations(document, file):
        place = f"{file}: {method.upper()} {path}"
        tool = f"{audience}.{operation.get('operationId') or ''}"
        if not is_tool(tool):
            raise SettingsError(f"{place}: operationId: expected a name of [A-Za-z0-9_.-], got {tool!r:.100}")
        if tool in routes.values():
            raise SettingsError(f"{place}: operationId: {tool} is that of another operation as well")
        kinds = _kinds(document, [*shared, *operation.get("parameters", ())], place)
        _check_body(document, operation.get("requestBody", {}), place)
        query = "&".join(f"{{{name}{kind}}}" for (where, name), kind in kinds.items() if where == "query")
        for (where, name), kind in kinds.items():
            path = path.replace(f"{{{name}}}", f"{{{name}{kind}}}") if where == "path" else path  # noqa: PLW2901
        routes[f"{method.upper()} {path}{'?' if query else ''}{query}"] = tool
    return routes


def _operations(document: Mapping[str, Any], file: Path) -> Iterator[tuple[str, str, Mapping[str, Any], list[Any]]]:
    for path, item in document.get("paths", {}).items():
        if path.startswith("/"):
            found = _resolved(document, item, f"{file}: {path}")
            for method in _METHODS:
                if method in found:
                    operation = _resolved(document, found[method], f"{file}: {method.upper()} {path}")
                    yield method, path, operation, found.get("parameters", [])


def _kinds(document: Mapping[str, Any], listed: list[Any], place: str) -> dict[tuple[str, str], str]:
    """Return the kind of each argument, by place and name, as a line of a route table has it.

    Raises:
        SettingsError: A parameter is no argument of its own in one spelling.
    """
    # An operation's parameter replaces that of its path.
    resolved = [_resolved(document, each, place) for each in listed]
    parameters = {(str(each.get("in")), str(each.get("name"))): each for each in resolved}
    kinds: dict[tuple[str, str], str] = {}
    for (where, name), parameter in parameters.items():
        at = f"{place}: {name}"
        if where in ("header", "cookie"):
            if parameter.get("required") or (where == "header" and name.lower() not in _HARMLESS):
                raise SettingsError(f"{at}: a {where} is no argument, so no rule could apply to it")
            continue
        if where not in ("path", "query") or name in {other for _, other in kinds}:
            raise SettingsError(f"{at}: expected one argument of this name, in path or query")
        kind = _kind(document, parameter.get("schema", {}), at)
        style = (parameter.get("style"), parameter.get("explode"))
        simple = style in ((None, None), ("form", None), (None, True), ("form", True)) or not kind
        if "content" in parameter or kind is None or not simple or (where == "path" and kind == ":list"):
            raise SettingsError(f"{at}: expected text, a number, or a list that repeats its name, as tag=a&tag=b")
        kinds[where, name] = kind
    return kinds


def _kind(document: Mapping[str, Any], schema: Any, place: str) -> str | None:
    """Return the kind of an argument in path or query; None for one that has no single spelling there."""
    found = _resolved(document, schema, place)
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
    content = _resolved(document, body, place).get("content", {})
    read = {kind: media for kind, media in content.items() if kind in _BODIES or kind.endswith("+json")}
    if content and not read:
        raise SettingsError(f"{place}: expected a body of {' or '.join(_BODIES)}, got {', '.join(content)}")
    for kind, media in read.items():
        schema = _resolved(document, _resolved(document, media, place).get("schema", {}), place)
        if schema.get("type", "object") != "object":
            raise SettingsError(f"{place}: {kind}: expected an object of arguments, got {schema['type']}")


def _resolved(document: Mapping[str, Any], value: Any, place: str) -> dict[str, Any]:
    """Return an object, or what its ``$ref`` names in the document."""
    for _ in range(8):
        if not isinstance(value, dict):
            raise SettingsError(f"{place}: expected an object, got {type(value).__name__}")
        reference = value.get("$ref")
        if reference is None:
            return value
        if not str(reference).startswith("#/"):
            raise SettingsError(f"{place}: expected a reference into this document, got {reference!r:.100}")
        value = document
        for part in str(reference).removeprefix("#/").split("/"):
            value = value.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    raise SettingsError(f"{place}: a reference leads to further ones")
