# SPDX-License-Identifier: Apache-2.0
"""OpenAPI documents as route tables: routes that a table takes, or an error of the settings."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arx_caps.gateway.http.openapi import read_routes
from arx_verifier.enforcement.base.routes import read_key
from arx_verifier.errors import SettingsError

MAX_BYTES = 4_096


def check(data: bytes) -> None:
    """Read a document from a file."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as file:
        file.write(data)
        file.flush()
        try:
            routes = read_routes(Path(file.name), "billing")
        except SettingsError:
            return
    assert len(set(routes.values())) == len(routes)
    for text, tool in routes.items():
        try:
            read_key(text, tool)
        except SettingsError:
            continue  # a path that no table takes: the gateway then refuses to start


def seeds() -> Iterator[bytes]:
    """Return documents with each form of parameter and body."""
    limit = {"name": "limit", "in": "query", "schema": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}
    tag = {"name": "tag", "in": "query", "schema": {"type": "array"}}
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refund"}}}}
    endless = {"$ref": "#/components/schemas/Endless"}
    paths: tuple[dict[str, Any], ...] = (
        {"/orders": {"get": {"operationId": "list", "parameters": [limit, tag]}}},
        {"/orders/{id}": {"parameters": [{"$ref": "#/components/parameters/Id"}], "get": {"operationId": "get"}}},
        {"/refund": {"post": {"operationId": "refund", "requestBody": body}}},
        {"/a": {"$ref": "#/components/pathItems/a"}},
        {"/a": {"get": {"operationId": "a", "parameters": 3}}},
        {"/a": {"get": {"operationId": "a", "requestBody": {"content": 3}}}},
        {"/a": {"get": {"operationId": "a", "parameters": [{"name": "a", "in": "query", "schema": {"type": {}}}]}}},
        {"/a": {"get": {"operationId": "a", "parameters": [{"name": "a", "in": "query", "schema": endless}]}}},
        {"x-note": "none"},
    )
    components = {
        "parameters": {"Id": {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}},
        "schemas": {
            "Refund": {"type": "object", "properties": {"amount": {"type": "integer"}}},
            "Endless": {"anyOf": [endless]},
        },
        "pathItems": {"a": {"$ref": "#/components/pathItems/a"}},
    }
    for each in paths:
        yield json.dumps({"openapi": "3.1.0", "paths": each, "components": components}).encode()
    yield b'{"openapi": "3.1.0", "paths": ' + b"[" * 4_000
