# SPDX-License-Identifier: Apache-2.0
"""In mcp-macaroon-middleware, a holder could use an expired token, because its end was not enforced.

ARx: time is compared on every call, warm or cold, and a time in another form than an integer of milliseconds refuses.
"""

import pytest

from arx_verifier.token.caveats import Caveat
from tests.support import ANYTHING, AT, access, code_of, forge, forge_caveats, mint, verifier


def test_expired_and_not_yet_valid_are_refused() -> None:
    """To the millisecond, in the identifier and in a caveat."""
    assert code_of(mint(exp=AT + 1).encode()) == "ok"
    assert code_of(mint(exp=AT).encode()) == "expired"
    assert code_of(mint(ANYTHING, Caveat(exp=AT)).encode()) == "expired"
    assert code_of(mint(ANYTHING, Caveat(nbf=AT + 1)).encode()) == "not_yet_valid"


def test_a_token_ends_while_it_is_in_use() -> None:
    """A verifier that knows the token asks the time again."""
    checked = verifier()
    token = mint(ANYTHING, Caveat(exp=AT + 1000)).encode()
    assert checked.decide(token, access(at=AT + 999)).code == "ok"
    assert checked.decide(token, access(at=AT + 1000)).code == "expired"


TIMES = [
    b"-1",
    b"-0",
    b"1.9e12",
    b"1900000000000.0",
    b"9007199254740992",
    b"1" + b"0" * 400,
    b"1e400",
    b"NaN",
    b"Infinity",
]
TIMES += [b'"1900000000000"', b'"2030-01-01T00:00:00Z"', b"null", b"true", b"[1900000000000]", b"01900000000000", b""]


@pytest.mark.parametrize("time", TIMES, ids=lambda time: ascii(time[:25]))
def test_a_time_of_another_form_refuses(time: bytes) -> None:
    """Overflowing, negative, floating, quoted or missing: never read as no limit."""
    for member in (b"exp", b"nbf"):
        assert code_of(forge_caveats(b'{"' + member + b'":' + time + b"}")) == "malformed"
    raw = mint().identifier.replace(b'"exp":%d' % (AT + 540_000), b'"exp":' + time)
    assert raw != mint().identifier
    assert code_of(forge(raw, (ANYTHING.encode(),))) == "malformed"
