# SPDX-License-Identifier: Apache-2.0
"""In other macaroon libraries, a holder could append bytes to a token, or make one take 1.8 s to verify.

ARx: one byte form, and every bound is applied before the work it bounds.
"""

from typing import Any

import pytest

from arx_verifier import _native
from arx_verifier.token import chain, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification import authenticate
from tests.support import ANYTHING, AT, KEY, access, code_of, mint, sign, verifier

RAW = mint().to_bytes()


@pytest.mark.parametrize("more", [b"\0", b"\0\0", b"\n", RAW, b"\6\x20" + bytes(32)], ids=lambda more: str(len(more)))
def test_nothing_follows_the_signature(more: bytes) -> None:
    """Not one byte."""
    assert code_of(wire.TOKEN_PREFIX + wire.text_of(RAW + more)) == "malformed"


@pytest.mark.parametrize("zeros", [1, 2, 4])
def test_lengths_are_minimal(zeros: int) -> None:
    """Of location, identifier, caveat and signature: a longer way to write one is another spelling of the token."""
    parts = wire.decode(RAW)
    for data in (parts.location, parts.signature):
        assert data is not None
        short = bytes([len(data)]) + data
        long = bytes([len(data) | 0x80]) + b"\x80" * (zeros - 1) + b"\0" + data
        assert short in RAW
        assert code_of(wire.TOKEN_PREFIX + wire.text_of(RAW.replace(short, long, 1))) == "malformed"


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is hashed for chains from now on; an HMAC hashes twice."""
    hashed: list[bytes] = []
    sha256 = chain.sha256

    def counting(data: bytes) -> Any:
        hashed.append(data)
        return sha256(data)

    monkeypatch.setattr(chain, "sha256", counting)
    for name in (
        "extend",
        "fold",
        "states_of",
        "ends_in",
    ):  # counted in Python, also where compiled twins stand for them
        monkeypatch.setattr(chain, name, _native.REFERENCES[name])
    return hashed


def tiny(count: int) -> str:
    """A token of many tiny caveats, rightly signed."""
    caveats = (ANYTHING.encode(), *(b"x",) * count)
    identifier = mint().identifier
    signature = chain.fold(chain.derive(KEY), identifier, caveats)
    return wire.TOKEN_PREFIX + wire.text_of(wire.encode(wire.Packets(b"acme", identifier, caveats, signature)))


@pytest.mark.parametrize("count", [64, 1000, 60_000])
def test_many_caveats_cost_no_hmac(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """More than 64 caveats, or more than 7 168 characters, are refused before a single HMAC."""
    token = tiny(count)
    hashed = counted(monkeypatch)
    assert code_of(token) == "malformed"
    assert hashed == []


def test_a_forged_token_costs_one_chain_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not authentic is never interpreted: no caveat of it is read."""
    token = mint(ANYTHING, key=b"\7" * 32)
    monkeypatch.setattr(authenticate, "ProvenChain", lambda *_: pytest.fail("a caveat of a forged token was read"))
    hashed = counted(monkeypatch)
    assert code_of(token.encode()) == "bad_signature"
    assert len(hashed) == 2 * 2


def test_a_seen_parent_costs_one_hmac(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of a parent that was met folds its own caveat alone, however long the chain is."""
    parent = mint(ANYTHING, *(Caveat(exp=AT + 1000 + n) for n in range(20)))
    checked = verifier()
    assert checked.decide(sign(parent, access()), access()).code == "ok"
    calls = [access(at=AT + n) for n in (1, 2)]
    tokens = [sign(parent, call) for call in calls]
    hashed = counted(monkeypatch)
    for call, token in zip(calls, tokens, strict=True):
        assert checked.decide(token, call).code == "ok"
        assert len(hashed) == 2, "both of its hashes are begun once a parent"
