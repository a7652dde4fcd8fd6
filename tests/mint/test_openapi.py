# SPDX-License-Identifier: Apache-2.0
"""The API's description is the API: every route, every status, every code, and nothing besides."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from arx_caps.mint.api.app import ENDPOINTS, describe_api
from arx_caps.mint.api.endpoint import NoBody
from arx_caps.mint.api.problems import CODES, find_code
from arx_verifier.errors import REASONS
from tests.mint.harness import ISSUER, Harness

pytestmark = [pytest.mark.spec("CONTROL 4.1"), pytest.mark.sqlite]

DOCUMENT: Any = msgspec.to_builtins(describe_api(ISSUER))


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


@pytest.mark.slow
def test_it_is_an_openapi_document() -> None:
    """The document keeps to OpenAPI 3.1, its references included."""
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_it_has_every_route_that_is_served_and_no_other(unit: Harness) -> None:
    """Methods and paths of the document are those of the application's own table."""
    served = set()
    for route in unit.client.app.routes:  # type: ignore[attr-defined]
        assert isinstance(route, Route)
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        served |= {(path, method) for method in route.methods or () if method != "HEAD"}
    assert {(path, method) for path, method, _ in operations()} == served


def test_every_operation_is_named_and_says_who_may_call_it() -> None:
    """Ids are unique, a summary is there, and what needs a token says which action it must allow."""
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(ids)) == len(ids)
    by_place = {(each.method, re.sub(r":\w+\}", "}", each.path)): each for each in ENDPOINTS}
    for path, method, operation in operations():
        assert operation["summary"].endswith(".")
        endpoint = by_place.get((method, path))
        if endpoint is None:
            assert operation["security"] == []
            continue
        assert (operation["security"] == []) == (endpoint.action is None or endpoint.callers == ("service",))
        assert endpoint.action is None or f"`{endpoint.action}`" in operation["description"]
        assert ("requestBody" in operation) == (endpoint.body is not NoBody)
        values = {code for answer in operation["responses"].values() for code in _codes(answer)}
        assert values == endpoint.codes
        assert str(endpoint.status) in operation["responses"]


def _codes(answer: dict[str, Any]) -> list[str]:
    schema = answer["content"].get("application/problem+json", {}).get("schema", {})
    found: list[str] = schema["allOf"][1]["properties"]["code"]["enum"] if schema else []
    return found


def test_a_generated_client_has_names_to_go_by() -> None:
    """A call is a verb and what it is done to; a type is called by what it is, and not by where it comes from."""
    for path, _, operation in operations():
        if path not in ("/healthz", "/readyz", "/openapi.json", "/problems/{code}", "/v1/whoami", "/v1/login"):
            assert re.fullmatch(r"[a-z]+(_[a-z]+)+", operation["operationId"]), operation["operationId"]
    assert not [name for name in DOCUMENT["components"]["schemas"] if re.search(r"Answer|Response|Struct", name)]


def test_every_code_of_the_mint_is_somebodys() -> None:
    """Each code has a route that answers it; a code in no table cannot be named."""
    used = {code for endpoint in ENDPOINTS for code in endpoint.codes}
    assert used <= set(CODES) | set(REASONS)
    # What no route of the API answers: a wrong method, and what is of the console's pages.
    assert set(CODES) - used == {"method_not_allowed", "bad_link", "sign_in_again", "wrong_form"}


@pytest.mark.spec("CONTROL 4.2")
def test_a_refusal_names_an_address_that_explains_it(unit: Harness) -> None:
    """A problem's type is of its code and leads, without a proof, to what that means and what to do."""
    for method, path, code in (
        ("GET", "/v1/sessions", "missing_token"),
        ("GET", "/v1/nothing", "not_found"),
        ("PUT", "/v1/sessions", "method_not_allowed"),
        ("GET", "/problems/nothing", "not_found"),
    ):
        answer = unit.client.request(method, path).json()
        known = find_code(code)
        assert known is not None
        assert (answer["code"], answer["title"], answer["type"]) == (code, known.means, f"{ISSUER}/problems/{code}")
        explained = unit.client.get(answer["type"])
        assert explained.headers["content-type"].startswith("text/plain")
        assert explained.text == f"{code} ({answer['status']})\n\n{known.means}\n\nwhat to do: {known.do}\n"
    assert unit.client.put("/v1/freezes/thaw").json()["detail"] == "method not allowed: expected POST"
    for code in {*CODES, *REASONS}:
        assert unit.client.get(f"/problems/{code}").status_code == 200


def test_it_is_served(unit: Harness) -> None:
    """The mint answers with it, without a credential."""
    assert unit.client.get("/openapi.json").json() == DOCUMENT
