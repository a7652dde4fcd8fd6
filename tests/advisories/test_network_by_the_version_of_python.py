# SPDX-License-Identifier: Apache-2.0
"""Verifiers on two versions of Python gave two answers about one ``net``: the canonical form was Python's own text.

Python 3.11 writes ``::ffff:0:0/96``, and 3.13 ``::ffff:0.0.0.0/96``: each version allowed its own form and refused the
other one as malformed.  A network with a zone was allowed on all.  Now ARx writes RFC 5952 itself.
"""

import pytest

from arx_verifier.constraints.text import cidr
from arx_verifier.errors import MalformedTokenError
from tests.support import access, code_of, forge_caveats

pytestmark = pytest.mark.spec("6.1", "7.3")


@pytest.mark.parametrize(
    "network", ["::ffff:0:0/96", "::ffff:0.0.0.0/96", "::ffff:a00:0/104", "::ffff:10.0.0.0/104", "fe80::%eth0/64"]
)
def test_one_of_the_two_forms_is_refused_on_each_version(network: str) -> None:
    """Both forms of a network of IPv4 inside IPv6 are malformed, in ``net`` as in ``cidr``, and so is a zone."""
    token = forge_caveats(b'{"allow":[{"tool":"*"}]}', b'{"net":["%b"]}' % network.encode())
    assert code_of(token, access()) == "malformed"
    with pytest.raises(MalformedTokenError):
        cidr(network)


@pytest.mark.parametrize(("network", "code"), [("192.0.2.0/24", "ok"), ("::/0", "network_not_allowed")])
def test_such_a_peer_is_judged_as_ipv4(network: str, code: str) -> None:
    """In whichever form its address comes."""
    token = forge_caveats(b'{"allow":[{"tool":"*"}]}', b'{"net":["%b"]}' % network.encode())
    for peer in ("::ffff:192.0.2.7", "::ffff:c000:207"):
        assert code_of(token, access(peer=peer)) == code
