# SPDX-License-Identifier: Apache-2.0
"""An MCP server could show a hidden tool in a list, under the name of another one: an item was filtered by its `uri`.

A tool and a prompt have no `uri`, and a client calls them by `name`.  Now an item is filtered by what calls it.
"""

import json
from typing import Any

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream

LISTS: dict[str, list[dict[str, Any]]] = {
    "tools/list": [{"name": "hidden", "uri": "get"}, {"name": "get", "uri": "hidden"}, {"uri": "get"}],
    "prompts/list": [{"name": "hidden", "uri": "get"}, {"name": "get", "uri": "hidden"}, {"uri": "get"}],
    "resources/list": [{"uri": "hidden", "name": "get"}, {"uri": "get", "name": "hidden"}, {"name": "get"}],
}


@pytest.mark.parametrize("method", LISTS)
@pytest.mark.spec("11")
def test_an_item_is_shown_by_what_calls_it(method: str) -> None:
    """Its other names say nothing."""
    realm = UnsafeTestRealm("files")
    rules = [
        Rule(tool="files.get"),
        Rule(tool="files.prompts.get", args={"name": "get"}),
        Rule(tool="files.resources.read", args={"uri": "get"}),
    ]
    member = method.partition("/")[0]
    data = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {member: LISTS[method]}}).encode()
    door = Door(realm, Upstream(lambda _: Answer(data)))
    shown = door.message(realm.caller(*rules), method)["result"][member]
    assert shown == [LISTS[method][1]]
