# SPDX-License-Identifier: Apache-2.0
"""A caller could have a view of Flask run without the body that was judged, by a no-break space behind its JSON type.

The guard took the space off and judged the JSON.  For Werkzeug it is a part of the type: ``get_json(silent=True)`` is
then None, and a view took its default for an argument that a rule limits.
"""

import pytest
from werkzeug.test import EnvironBuilder

from tests.verifier.serving import Realm, answered

BODY = b'{"amount":5}'
TARGET = "/orders/A-1/refund"


@pytest.mark.spec("8.4")
@pytest.mark.parametrize(
    "kind",
    [
        b"application/json",
        b"application/json ;x=1",
        b"application/x+json",
        b"application/json\xa0",
        b"\x85application/json",
    ],
)
def test_what_is_judged_as_json_is_json_for_the_framework(kind: bytes) -> None:
    """The guard takes the types alone that Werkzeug takes."""
    realm = Realm()
    token = realm.token().encode()
    answer = answered(realm, TARGET, token, method="POST", body=BODY, headers=[(b"content-type", kind)])
    seen = EnvironBuilder(method="POST", content_type=kind.decode("latin-1"), data=BODY).get_request()
    assert answer.status == (400 if seen.get_json(silent=True) is None else 200)
    assert (answer.status == 400) is not kind.isascii()
