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
_KINDS: Final = {"integer": ":int", "number": ":number", "array": ":list"}  # of a query's argument; else it is text
_BODIES: Final = ("application/json", "multipart/form-data")


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
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file}: expected an OpenAPI document in JSON: {error}") from None
    if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith("3."):
        raise SettingsError(f"{file}: expected an OpenAPI document of version 3")
    routes: dict[str, str] = {}
    for method, path, operation, shared in _operations(document):
        place = f"{file}: {method.upper()} {path}"
        tool = f"{audience}.{operation.get('operationId')}"
        if not is_tool(tool):
            raise SettingsError(f"{place}: operationId: expected a name of [A-Za-z0-9_.-], got {tool!r:.100}")
        if tool in routes.values():
            raise SettingsError(f"{place}: operationId: {tool} is that of another operation as well")
        parameters = [_resolved(document, each, place) for each in (*shared, *operation.get("parameters", ()))]
        query = [each for each in parameters if each.get("in") == "query"]
        if needed := [each for each in parameters if each.get("in") in ("header", "cookie") and each.get("required")]:
            raise SettingsError(
                f"{place}: {needed[0].get('name')}: a header or a cookie is no argument, and it is required"
            )
        body = _resolved(document, operation.get("requestBody", {}), place).get("content", {})
        if body and not set(body) & set(_BODIES):
            raise SettingsError(f"{place}: expected a body of {' or '.join(_BODIES)}, got {', '.join(body)}")
        names = "&".join(f"{{{each['name']}{_kind(document, each, place)}}}" for each in query)
        routes[f"{method.upper()} {path}{'?' if names else ''}{names}"] = tool
    return routes


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any], list[Any]]]:
    for path, item in document.get("paths", {}).items():
        for method, operation in item.items():
            if method in _METHODS and isinstance(operation, dict):
                yield method, path, operation, item.get("parameters", [])


def _kind(document: Mapping[str, Any], parameter: Mapping[str, Any], place: str) -> str:
    schema = _resolved(document, parameter.get("schema", {}), place)
    return _KINDS.get(str(schema.get("type")), "")


def _resolved(document: Mapping[str, Any], value: Any, place: str) -> dict[str, Any]:
    """Return an object, or what its ``$ref`` names in the document."""
    for _ in range(8):
        if not isinstance(value, dict):
            raise SettingsError(f"{place}: expected an object, got {type(value).__name__}")
        reference = value.get("$ref")
        if reference is None:
            return value
        value = document
        for part in str(reference).removeprefix("#/").split("/"):
            value = value.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    raise SettingsError(f"{place}: a reference leads to further ones")
