# SPDX-License-Identifier: Apache-2.0
"""The vectors of SPEC 8.4: the arguments of each request, as a table of routes has them."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from arx_verifier.enforcement.base.routes import RouteMap
from arx_verifier.errors import RequestError
from tests.vectors import make_vectors

FOLDER = Path(__file__).parent.parent / "vectors" / "requests"
VECTORS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def arguments_of(vector: dict[str, Any]) -> Any:
    """The arguments of a vector's request, or the reason code of its refusal."""
    raw, _, query = vector["target"].partition("?")
    scope = {"type": "http", "method": vector["route"].partition(" ")[0], "path": unquote(raw)}
    scope |= {"raw_path": raw.encode(), "query_string": query.encode(), "headers": []}
    try:
        found = RouteMap({vector["route"]: "orders.refund"})(scope, b"")
    except RequestError as error:
        return error.code
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", VECTORS)
def test_each_request_has_the_arguments_of_its_vector(name: str) -> None:
    """With their types, or it is refused."""
    expected = VECTORS[name]["expect"]
    assert json.dumps(arguments_of(VECTORS[name]), sort_keys=True) == json.dumps(expected, sort_keys=True)


def test_the_files_are_what_the_script_makes() -> None:
    """Running the script again changes nothing."""
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == make_vectors.build_requests()
