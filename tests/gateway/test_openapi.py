# SPDX-License-Identifier: Apache-2.0
"""The route table of an OpenAPI document: each operation is a tool, or the document is refused with its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from arx_caps.gateway.http.openapi import read_routes
from arx_verifier.enforcement.base.routes import RouteMap
from arx_verifier.errors import SettingsError

LIMIT = {"name": "limit", "in": "query", "schema": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}


def parameter(name: str, where: str = "query", kind: Any = "string", **more: Any) -> dict[str, Any]:
    return {"name": name, "in": where, "schema": {"type": kind}, **more}


def written(folder: Path, paths: dict[str, Any], **more: Any) -> Path:
    file = folder / "api.json"
    file.write_text(json.dumps({"openapi": "3.1.0", "paths": paths, **more}))
    return file


def test_each_operation_is_a_tool(tmp_path: Path) -> None:
    """Its arguments are those in path, query and body; a reference is followed, and a path's parameter replaced."""
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refund"}}}}
    paths = {
        "x-note": "of a tool",
        "/orders": {
            "parameters": [parameter("page"), {"$ref": "#/components/parameters/Tags"}],
            "get": {"operationId": "list", "parameters": [LIMIT, parameter("page", kind=["number", "null"])]},
        },
        "/orders/{order_id}/refund": {
            "parameters": [parameter("order_id", "path", "integer", required=True)],
            "summary": "Refund",
            "post": {
                "operationId": "refund",
                "requestBody": body,
                "parameters": [parameter("dry_run", kind="boolean"), parameter("Idempotency-Key", "header")],
            },
        },
    }
    components = {
        "parameters": {"Tags": parameter("tag", kind="array")},
        "schemas": {"Refund": {"type": "object", "properties": {"amount": {"type": "integer"}}}},
    }
    routes = read_routes(written(tmp_path, paths, components=components), "billing")
    assert routes == {
        "GET /orders?{page:number}&{tag:list}&{limit:int}": "billing.list",
        "POST /orders/{order_id:int}/refund?{dry_run}": "billing.refund",
    }
    scope = {"type": "http", "method": "GET", "path": "/orders", "query_string": b"limit=7&tag=a&tag=b", "headers": []}
    assert RouteMap(routes)(scope, b"") == ("billing.list", {"limit": 7, "tag": ["a", "b"]})
    refund = {"method": "POST", "path": "/orders/7/refund", "query_string": b"", "headers": []}
    assert RouteMap(routes)(refund, b"") == ("billing.refund", {"order_id": 7})


def get(*parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"/a": {"get": {"operationId": "a", "parameters": [*parameters], **more}}}


@pytest.mark.parametrize(
    ("paths", "place"),
    [
        ({"/a": {"get": {}}}, "GET /a: operationId"),
        ({"/a": {"get": {"operationId": "a"}}, "/b": {"put": {"operationId": "a"}}}, "PUT /b: operationId"),
        (get(parameter("X-Account", "header")), "X-Account: a header"),
        (get(parameter("id", "cookie", required=True)), "id: a cookie"),
        (get(parameter("tag", kind="array", explode=False)), "tag: expected"),
        (get(parameter("tag", kind="array", style="pipeDelimited")), "tag: expected"),
        (get(parameter("filter", kind="object")), "filter: expected"),
        (get({"name": "q", "in": "query", "content": {"application/json": {}}}), "q: expected"),
        (get(parameter("id", "path"), parameter("id")), "id: expected one argument"),
        (get(requestBody={"content": {"application/x-www-form-urlencoded": {}}}), "expected a body"),
        (get(requestBody={"content": {"application/json": {"schema": {"type": "array"}}}}), "an object of arguments"),
        (get({"$ref": "other.json#/a"}), "expected a reference into"),
        (get({"$ref": "#/components/none"}), "GET /a: expected an object"),
        ({"/a": 7}, "/a: expected an object"),
    ],
)
def test_what_no_rule_could_judge_is_refused(tmp_path: Path, paths: dict[str, Any], place: str) -> None:
    """The error names the operation and what is wrong with it."""
    with pytest.raises(SettingsError) as refused:
        read_routes(written(tmp_path, paths), "billing")
    assert place in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", '{"swagger": "2.0"}', "openapi: 3.0.0"])
def test_a_file_that_is_no_openapi_3_is_refused(tmp_path: Path, text: str) -> None:
    """YAML and earlier versions are others."""
    file = tmp_path / "api.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"expected an OpenAPI document"):
        read_routes(file, "billing")
    with pytest.raises(SettingsError, match=r"expected an OpenAPI document"):
        read_routes(tmp_path / "none.json", "billing")
