# SPDX-License-Identifier: Apache-2.0
"""The language-independent test data of libmacaroons: its version 2 tokens are ours too, its version 1 is refused."""

import base64
from pathlib import Path
from typing import NamedTuple

import pytest

from arx_verifier.errors import MalformedTokenError
from arx_verifier.token import chain, wire
from tests.support import code_of

FOLDER = Path(__file__).parent.parent / "vectors" / "libmacaroons"
V1 = sorted(FOLDER.glob("*_v1_*.vtest"))
V2 = sorted(FOLDER.glob("*_v2_*.vtest"))
SERIALIZATIONS = sorted(FOLDER.glob("serialization_*"))


class Vector(NamedTuple):
    """One ``.vtest`` file."""

    authorized: bool
    key: bytes
    exact: frozenset[bytes]
    token: bytes


def raw_of(text: str) -> bytes:
    """The bytes of base64url text with or without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def read(path: Path) -> Vector:
    """Read a vector: comments, version, verdict, key, exact predicates, then the macaroon."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "version 1"
    assert lines[1] in ("authorized", "unauthorized")
    assert lines[2].startswith("key ")
    exact = frozenset(line.removeprefix("exact ").encode() for line in lines[3:] if line.startswith("exact "))
    [token] = [line for line in lines[3:] if not line.startswith("exact ")]
    return Vector(lines[1] == "authorized", lines[2].removeprefix("key ").encode(), exact, raw_of(token))


def test_all_the_data_is_there() -> None:
    """Sixteen vectors and three serializations; a lost file is noticed."""
    assert (len(V1), len(V2), len(SERIALIZATIONS)) == (8, 8, 3)


@pytest.mark.spec("5.1")
@pytest.mark.parametrize("path", V2, ids=lambda path: path.stem)
def test_version_2_vectors_come_out_as_they_say(path: Path) -> None:
    """Chain and exact predicates together give libmacaroons' verdict."""
    vector = read(path)
    packets = wire.decode(vector.token)
    caveats = [caveat for caveat in packets.caveats if isinstance(caveat, bytes)]
    assert len(caveats) == len(packets.caveats)
    proven = chain.equal(chain.fold(chain.derive(vector.key), packets.identifier, caveats), packets.signature)
    assert (proven and set(caveats) <= vector.exact) == vector.authorized
    assert wire.encode(packets) == vector.token


@pytest.mark.spec("2.1")
@pytest.mark.parametrize("path", V1, ids=lambda path: path.stem)
def test_version_1_vectors_are_malformed(path: Path) -> None:
    """There is one byte form, and version 1 is another."""
    raw = read(path).token
    with pytest.raises(MalformedTokenError):
        wire.decode(raw)
    assert code_of(wire.TOKEN_PREFIX + wire.text_of(raw)) == "malformed"


@pytest.mark.spec("2.1")
@pytest.mark.parametrize("path", SERIALIZATIONS, ids=lambda path: path.stem)
def test_serializations_of_one_macaroon(path: Path) -> None:
    """The version 2 line decodes and encodes to the same bytes; the others are refused."""
    forms = dict(line.split(" ", 1) for line in path.read_text().splitlines() if line)
    assert set(forms) == {"v1", "v2", "v2j"}
    raw = raw_of(forms["v2"])
    assert wire.encode(wire.decode(raw)) == raw
    assert wire.decode(raw).location == b"http://example.org/"
    for other in ("v1", "v2j"):
        with pytest.raises(MalformedTokenError):
            wire.decode(raw_of(forms[other]))
