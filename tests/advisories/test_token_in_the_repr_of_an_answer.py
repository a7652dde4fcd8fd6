# SPDX-License-Identifier: Apache-2.0
"""A reader of the mint's error reports could find tokens and bundles in the variables of a traceback."""

import msgspec
import pytest

from arx_caps.mint.api.app import ENDPOINTS
from arx_caps.mint.api.endpoint import Hidden
from arx_caps.mint.api.routes.identity.operators import OperatorToken
from arx_caps.mint.api.routes.oauth.exchange import ExchangeBody
from arx_caps.mint.api.routes.work.sessions import SessionBody

TOKENS = {"access_token", "assertion", "bundle", "discharge", "enrolment", "handle", "id_token", "sealed", "secret"}
TOKENS |= {"subject_token", "token", "workload_token"}
TYPES = {kind for endpoint in ENDPOINTS for kind in (endpoint.body, endpoint.answer)}


@pytest.mark.parametrize("kind", sorted(TYPES, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_a_body_or_answer_with_a_token_hides_its_members(kind: type[msgspec.Struct]) -> None:
    """Of every route, those that are added later included."""
    assert issubclass(kind, Hidden) or not TOKENS.intersection(kind.__struct_fields__)


def test_no_token_is_in_a_repr() -> None:
    """Neither in that of a request nor of an answer, nor of what holds it."""
    session = SessionBody(assertion="ey.a", subject_token="ey.b")
    exchange = msgspec.convert(
        {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": "ey.c",
            "subject_token_type": "urn:arx:token-type:task",
            "audience": "stock",
        },
        ExchangeBody,
    )
    answer = OperatorToken(token="ey.d", expires_at=1)
    assert "ey." not in repr({"bodies": [session, exchange], "answer": answer})
