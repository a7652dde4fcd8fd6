# SPDX-License-Identifier: Apache-2.0
"""A holder could make a decision raise unrecorded, with a constraint whose text is not UTF-8.

Constraints are read later than the caveat around them.  A constraint whose text was not UTF-8, in a caveat with any
character beyond U+FFFF, made the check of names fail with an error that no caller caught: ``decide`` raised, the
middleware answered 500, and no decision was recorded.  And a ``net`` of another spelling (``/255.255.255.0``, ``/032``,
a bare address) was taken by this verifier where another reader sees another network, or none.
"""

import pytest

from tests.support import access, forge_caveats, verifier

FOUR_BYTES = "😀".encode()


@pytest.mark.parametrize(
    "constraint",
    [
        b'"\xff"',
        b'{"glob":"a\xd6*"}',
        b'{"not":{"cidr":"10\xd60.0.0/8"}}',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b"[" * 2000 + b"]" * 2000,
        b'{"a":' * 600 + b"1" + b"}" * 600,
        b"1e999",
        b"nan",
    ],
    ids=lambda raw: ascii(raw[:12]),
)
@pytest.mark.parametrize("more", [b"x", FOUR_BYTES, "é".encode(), b"\xf8\x88\x80\x80\x80"], ids=ascii)
def test_a_constraint_that_is_no_text_is_malformed(constraint: bytes, more: bytes) -> None:
    """Whatever else the caveat holds; and the refusal is recorded as one of a proven token."""
    caveat = b'{"allow":[{"args":{"a":%b,"b":"%b"},"open":true,"tool":"*"}]}' % (constraint, more)
    checked = verifier()
    decision = checked.decide(forge_caveats(caveat), access())
    assert decision.code == "malformed"
    assert decision.sequence == 1
    assert decision.session
    assert str(decision.failures[0]).isprintable()


@pytest.mark.parametrize(
    "network",
    ["192.0.2.0/255.255.255.0", "192.0.2.0/0.0.0.255", "192.0.2.7", "192.0.2.7/032", "192.0.2.0/+24", "::0/0"],
)
def test_a_network_has_one_spelling(network: str) -> None:
    """As in ``cidr``: a mask that is read from the other end is another network."""
    decision = verifier().decide(forge_caveats(b'{"net":["%b"]}' % network.encode()), access())
    assert decision.code == "malformed"


def test_names_beyond_the_plane_stay_refused() -> None:
    """And characters beyond it stay allowed as values."""
    for args, code in ((b'{"%b":1}', "malformed"), (b'{"a":{"equal":"%b","optional":true}}', "ok")):
        caveat = b'{"allow":[{"args":%b,"open":true,"tool":"*"}]}' % (args % FOUR_BYTES)
        assert verifier().decide(forge_caveats(caveat), access()).code == code
