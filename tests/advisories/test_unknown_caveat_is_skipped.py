# SPDX-License-Identifier: Apache-2.0
"""In mcp-macaroon-middleware, a holder's unknown or malformed caveat was logged and skipped.

ARx: a restriction that a verifier does not understand, or cannot read in its one form, refuses the call.
"""

import pytest

from arx_verifier.errors import MalformedTokenError
from arx_verifier.token import chain, wire
from tests.support import AT, code_of, forge_caveats, mint

LATER = str(AT + 1000).encode()


@pytest.mark.parametrize(
    ("caveat", "code"),
    [
        (b'{"before":' + LATER + b"}", "unknown_caveat"),
        (b'{"exp":' + LATER + b',"region":"eu"}', "unknown_caveat"),
        (b'{"EXP":' + LATER + b"}", "unknown_caveat"),
        (b'{"Exp":' + LATER + b"}", "unknown_caveat"),
        (b'{"exp\\u0000":' + LATER + b"}", "unknown_caveat"),
        (b'{"exp":' + LATER + b',"exp":' + LATER + b"}", "malformed"),
        (b'{"exp":' + LATER + b"}\0", "malformed"),
        (b'{"exp\0":' + LATER + b"}", "malformed"),
        (b'{"task":"t\0"}', "malformed"),
        (b"time < " + LATER, "malformed"),
        (b"exp:" + LATER, "malformed"),
        (b"", "malformed"),
        (b"{}", "malformed"),
        (b'{"exp":}', "malformed"),
        (b'{"task":"' + b"x" * 4000 + b'"}', "malformed"),
        (b'{"note":"' + b"x" * 4000 + b'"}', "unknown_caveat"),
    ],
    ids=lambda value: ascii(value[:30]),
)
def test_what_is_not_understood_refuses(caveat: bytes, code: str) -> None:
    """Unknown, in another case, doubled, with a NUL, or of another system: the call is refused."""
    assert code_of(forge_caveats(caveat)) == code


def test_a_value_of_64_kb_is_refused_before_it_is_read() -> None:
    """It does not even have a length in the token's form; as text it is refused by its size."""
    caveat = b'{"task":"' + b"x" * 65_536 + b'"}'
    with pytest.raises(MalformedTokenError):
        wire.packet(wire.IDENTIFIER, caveat)
    body, signature = mint().parts()
    long = (
        b"\x02" + bytes([len(caveat) & 0x7F | 0x80, len(caveat) >> 7 & 0x7F | 0x80, len(caveat) >> 14]) + caveat + b"\0"
    )
    raw = body + long + wire.TAIL + chain.extend(signature, caveat)
    assert code_of(wire.TOKEN_PREFIX + wire.text_of(raw)) == "malformed"
