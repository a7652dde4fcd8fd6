# SPDX-License-Identifier: Apache-2.0
"""The HMAC chain is the standard one, and links are what anyone can compute."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.token import chain, wire
from tests.support import QUICK

pytestmark = pytest.mark.spec("5.1")

SIGNATURES = st.binary(min_size=32, max_size=32)
CAVEATS = st.binary(max_size=300)


@QUICK
@given(SIGNATURES, CAVEATS)
def test_extend_is_hmac_sha256(signature: bytes, caveat: bytes) -> None:
    """The written-out fold gives the same bytes as ``hmac.digest``."""
    assert chain.extend(signature, caveat) == hmac.digest(signature, caveat, "sha256")


@QUICK
@given(st.binary(min_size=1, max_size=80), CAVEATS, st.lists(CAVEATS, max_size=6))
def test_fold_is_extend_repeated(key: bytes, raw_identifier: bytes, caveats: list[bytes]) -> None:
    """A chain is one HMAC over the identifier and one for each caveat, each keyed by the one before."""
    expected = hmac.digest(
        hmac.digest(b"macaroons-key-generator".ljust(32, b"\0"), key, "sha256"), raw_identifier, "sha256"
    )
    for caveat in caveats:
        expected = hmac.digest(expected, caveat, "sha256")
    assert chain.fold(chain.derive(key), raw_identifier, caveats) == expected
    assert chain.fold(chain.derive(key), raw_identifier, iter(caveats)) == expected


@QUICK
@given(SIGNATURES, st.binary(max_size=100), CAVEATS)
def test_third_party_fold_is_that_of_libmacaroons(signature: bytes, verification_id: bytes, caveat: bytes) -> None:
    """A third-party caveat binds both its sealed key and its identifier."""
    halves = hmac.digest(signature, verification_id, "sha256") + hmac.digest(signature, caveat, "sha256")
    assert chain.extend_third_party(signature, verification_id, caveat) == hmac.digest(signature, halves, "sha256")


def test_where_one_caveat_ends_and_the_next_begins_is_signed() -> None:
    """Two caveats are not the one caveat that joins them."""
    key = chain.derive(b"k")
    assert chain.fold(key, b"i", [b"ab", b"c"]) != chain.fold(key, b"i", [b"a", b"bc"])
    assert chain.fold(key, b"i", [b"ab"]) != chain.fold(key, b"i", [b"a", b"b"])
    assert chain.fold(key, b"i", [b""]) != chain.fold(key, b"i", [])


def test_equal_compares_contents() -> None:
    """Comparison is by content, for bytes of any length."""
    assert chain.equal(b"a" * 32, bytes(b"a" * 32))
    assert not chain.equal(b"a" * 32, b"a" * 31)
    assert not chain.equal(b"a" * 32, b"a" * 31 + b"b")


@pytest.mark.spec("5.3")
@QUICK
@given(st.binary(min_size=16, max_size=16), st.binary(min_size=9, max_size=9))
def test_a_link_needs_no_key(link: bytes, hop: bytes) -> None:
    """A link is the first half of a SHA-256 over public bytes."""
    name = hashlib.sha256(b"arx/1/link" + link + hop).digest()[:16]
    further = hashlib.sha256(b"arx/1/link" + name + hop).digest()[:16]
    hops = (wire.base64_of(hop),) * 2
    assert chain.links_of(wire.text_of(link), hops) == [wire.text_of(name), wire.text_of(further)]


@QUICK
@given(st.binary(max_size=40))
def test_names_are_canonical_base64url(raw: bytes) -> None:
    """There is one way to write a link, for any writer."""
    assert wire.bytes_of(wire.text_of(raw)) == raw
