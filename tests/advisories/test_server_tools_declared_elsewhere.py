# SPDX-License-Identifier: Apache-2.0
"""A task without tools of the model's server could have them, such as a web search, declared in a request's input.

docs/gateway.md.
"""

import json
from typing import Any

import pytest

from arx_caps.gateway.catalogue.routes import CatalogueRoutes
from arx_caps.gateway.catalogue.terms import read_catalogue
from tests.house.pages import ROOT

SCOPE: Any = {
    "type": "http",
    "method": "POST",
    "path": "/v1/responses",
    "raw_path": b"/v1/responses",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
}
SEARCH = {"type": "web_search"}
SPACE = {"type": "namespace", "name": "functions", "tools": [{"type": "function", "name": "f"}]}
FULL = {**SPACE, "tools": [SPACE, SEARCH]}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"tools": [SPACE]}, None),
        ({"tools": [FULL]}, ["web_search"]),
        ({"input": [{"type": "additional_tools", "tools": [SPACE]}]}, None),
        ({"input": [{"type": "additional_tools", "tools": [SEARCH]}]}, ["web_search"]),
        ({"input": [{"type": "additional_tools", "tools": [FULL]}], "tools": [{"type": "mcp"}]}, ["mcp", "web_search"]),
        ({"input": {"type": "tool_search_output", "tools": SEARCH}}, ["web_search"]),
    ],
)
def test_each_place_of_a_declaration_is_an_argument(body: dict[str, Any], found: list[str] | None) -> None:
    """In the list of tools, in an item of the input, and in a namespace of either: a rule judges them all."""
    routes = CatalogueRoutes(read_catalogue("openai", ROOT, "model").routes)
    meaning = routes(SCOPE, json.dumps({"model": "m", **body}).encode())
    assert meaning is not None
    assert meaning[1].get("server_tools") == found
