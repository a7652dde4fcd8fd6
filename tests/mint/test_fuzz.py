# SPDX-License-Identifier: Apache-2.0
"""Whatever is sent, the mint answers with a problem and never with a failure of its own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arx_caps.mint.api.app import ENDPOINTS
from arx_verifier.token import wire
from tests.mint.harness import AGENT, LOOKUP, Harness, Holder, open_unit

pytestmark = pytest.mark.spec("CONTROL 4.2")

PATHS = sorted({endpoint.path for endpoint in ENDPOINTS if "{" not in endpoint.path})
MODEST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))
NAMES = st.sampled_from(
    ["template", "params", "ttl", "tools", "depth", "targets", "reason", "wait", "path", "jwk", "owner", "metadata"]
)


@pytest.fixture(scope="module")
def unit(tmp_path_factory: pytest.TempPathFactory, module_database: str | None) -> Iterator[Harness]:
    """One realm for all examples."""
    with open_unit(tmp_path_factory.mktemp("fuzz") / "realm", database=module_database) as unit:
        yield unit


@pytest.fixture(scope="module")
def holders(unit: Harness) -> dict[str, Holder]:
    return {"agent": unit.session(AGENT)[0], "operator": unit.operator()}


@MODEST
@given(path=st.sampled_from(PATHS), token=TEXT, proof=TEXT, body=st.binary(max_size=200))
def test_strangers_get_a_problem(unit: Harness, path: str, token: str, proof: str, body: bytes) -> None:
    """Random headers and bytes are refused as such."""
    headers = {"Authorization": f"DPoP {token}", "DPoP": proof, "Content-Type": "application/json"}
    answer = unit.client.post(path, content=body, headers=headers)
    assert answer.status_code in (401, 405)
    assert answer.json()["code"]


@pytest.mark.slow
@MODEST
@given(who=st.sampled_from(["agent", "operator"]), path=st.sampled_from(PATHS), body=VALUES)
def test_callers_get_a_problem(unit: Harness, holders: dict[str, Holder], who: str, path: str, body: Any) -> None:
    """Any JSON value from an authorized caller is answered, never with 500; a refusal is a problem document."""
    content = json.dumps(body).encode()
    answer = _post(holders[who], path, content)
    assert answer.status_code < 500
    assert answer.is_success or answer.json()["code"]


@pytest.mark.slow
@MODEST
@given(path=st.sampled_from(PATHS), members=st.dictionaries(NAMES, VALUES, max_size=6))
def test_members_of_odd_types_get_a_problem(
    unit: Harness, holders: dict[str, Holder], path: str, members: dict[str, Any]
) -> None:
    """Known members with any value whatever are answered, and not with 500."""
    for who in holders.values():
        assert _post(who, path, json.dumps(members).encode()).status_code < 500


@pytest.mark.slow
@MODEST
@given(place=st.integers(min_value=0), bit=st.integers(0, 7), cut=st.booleans())
def test_a_flipped_bit_breaks_a_token(
    unit: Harness, holders: dict[str, Holder], place: int, bit: int, cut: bool
) -> None:
    """No change of a token anywhere is accepted, an operator's as little as a session's."""
    for who in holders.values():
        assert who.token is not None
        raw = bytearray(wire.bytes_of(who.token.removeprefix("arx1_")))
        if cut:
            del raw[place % len(raw) :]
        else:
            raw[place % len(raw)] ^= 1 << bit
        altered = Holder(unit, who.key, "arx1_" + wire.text_of(bytes(raw)))
        answer = altered.call("GET", "/v1/whoami")
        assert answer.status_code in (401, 400), answer.text
        assert altered.call("POST", "/v1/tasks", LOOKUP).status_code != 201


def _post(holder: Holder, path: str, content: bytes) -> Any:
    headers = holder.headers("POST", path) | {"Content-Type": "application/json"}
    return holder.harness.client.post(path, content=content, headers=headers)
