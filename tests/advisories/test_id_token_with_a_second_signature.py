# SPDX-License-Identifier: Apache-2.0
"""A thief of a used ID token must not log in with it again, with another signature of the same text.

Of an ECDSA signature (r, s), anyone can make (r, n - s), which verifies as well.
"""

import base64

import pytest

from arx_caps.credentials.jose import SigningKey
from tests.mint.harness import Holder
from tests.mint.login import idp  # noqa: F401 - a fixture
from tests.mint.test_operator_login import People, people  # noqa: F401 - a fixture

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256

pytestmark = pytest.mark.sqlite


def test_another_signature_of_a_used_token_is_a_replay(people: People) -> None:  # noqa: F811
    """The mint remembers what was signed, and not how."""
    people.issuer.person = {"sub": "ann", "groups": ["sre"]}
    token = people.issuer.id_token()
    assert people.post(Holder(people.harness, SigningKey.generate(), None), token).status_code == 201
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    other = raw[:32] + (ORDER - int.from_bytes(raw[32:])).to_bytes(32)
    again = f"{signed}.{base64.urlsafe_b64encode(other).rstrip(b'=').decode()}"
    answer = people.post(Holder(people.harness, SigningKey.generate(), None), again)
    assert (answer.status_code, answer.json()["code"]) == (401, "replayed")
