# SPDX-License-Identifier: Apache-2.0
"""What a holder and a mint do: hand over, sign a call, mint; and how long the texts are.  See README.md."""

from collections.abc import Callable
from typing import Any

import pytest

from arx_verifier import proofs
from arx_verifier.macaroon import Macaroon
from benchmarks import peers
from benchmarks.world import AT, FIELDS, five, handed, root

HAND_OVER = "hand over one hop, text to text, five constraints"
MINT = "mint a token of five constraints, to text"
SIGN = "sign one call, to text"
SIZE = "sizes: three hand-overs (time: writing the text)"


def run(benchmark: Any, group: str, work: Callable[[], str | bytes], *, ours: bool = False) -> None:
    """Time it, and note how long the result is."""
    benchmark.group = group
    benchmark.extra_info.update(chars=len(work()), ours=ours)
    benchmark(work)


def test_arx_hand_over(benchmark: Any) -> None:
    """Read the text, add a named, narrowed hop with its own link, write the text."""
    text, caveat = root().encode(), five(900)

    def work() -> str:
        return Macaroon.parse(text).hand_over("acme/worker", caveat).encode()

    assert len(Macaroon.parse(work()).packets) == 2
    run(benchmark, HAND_OVER, work, ours=True)


def test_arx_hand_over_name_only(benchmark: Any) -> None:
    """The same without a restriction: a named hop, killable alone."""
    text = root().encode()
    run(benchmark, HAND_OVER, lambda: Macaroon.parse(text).hand_over("acme/worker").encode())


@pytest.mark.parametrize("peer", ["tenuo", "pymacaroons"])
def test_hand_over(benchmark: Any, peer: str) -> None:
    """A JWT cannot be handed over without its issuer, so PyJWT has no figure here."""
    run(benchmark, HAND_OVER, peers.Tenuo(0).hand_over() if peer == "tenuo" else peers.pymacaroons_hand_over())


def test_arx_mint(benchmark: Any) -> None:
    """Identifier and first caveat, encoded and folded; the audience key goes through the key generator each time."""
    run(benchmark, MINT, lambda: root().encode(), ours=True)


@pytest.mark.parametrize("peer", ["tenuo", "pymacaroons", "PyJWT HS256", "PyJWT EdDSA"])
def test_mint(benchmark: Any, peer: str) -> None:
    """The same by others."""
    makers: dict[str, Callable[[], peers.Work]] = {
        "tenuo": lambda: peers.Tenuo(0).mint(),
        "pymacaroons": peers.pymacaroons_mint,
        "PyJWT HS256": lambda: peers.jwt_mint("HS256"),
        "PyJWT EdDSA": lambda: peers.jwt_mint("EdDSA"),
    }
    run(benchmark, MINT, makers[peer]())


def test_arx_sign(benchmark: Any) -> None:
    """A fresh nonce, one digest, one HMAC, the text of the tail."""
    signer = proofs.CallSigner(handed(3), "orders")
    run(benchmark, SIGN, lambda: signer.sign(FIELDS, AT), ours=True)


@pytest.mark.parametrize("peer", ["tenuo", "PyJWT EdDSA"])
def test_sign(benchmark: Any, peer: str) -> None:
    """tenuo's proof of possession; a DPoP-like proof with PyJWT.  Both come beside the token, ours is the token."""
    run(benchmark, SIGN, peers.Tenuo(3).sign if peer == "tenuo" else peers.jwt_proof())


@pytest.mark.parametrize("kind", ["arx, restated", "arx, only what narrows", "tenuo", "pymacaroons"])
def test_size(benchmark: Any, kind: str) -> None:
    """The text of a token after three hand-overs, five constraints at each unless said."""
    restated, narrow, chain, plain = handed(3), handed(3, restate=False), peers.Tenuo(3), peers.pymacaroon(3)
    work: dict[str, Callable[[], str]] = {
        "arx, restated": restated.encode,
        "arx, only what narrows": narrow.encode,
        "tenuo": lambda: peers.tenuo_text(chain),
        "pymacaroons": plain.serialize,
    }
    run(benchmark, SIZE, work[kind], ours=kind == "arx, restated")
