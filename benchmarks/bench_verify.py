# SPDX-License-Identifier: Apache-2.0
"""From a presented text to a recorded decision, beside what others do for the same restrictions.  See README.md."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_verifier import proofs
from arx_verifier.access import AccessRequest, HttpCall
from arx_verifier.verify import Verifier
from benchmarks import peers
from benchmarks.world import ARGS, AT, REQUEST, TOOL, calls, handed, verifier

ROUNDS, WARMUP = 3000, 300
HOPS = (1, 3, 5)
LIVE = 2000


def group(hops: int) -> str:
    """Name the group of figures that stand side by side."""
    return f"decide: {hops} hand-over{'s' if hops > 1 else ''}, five constraints each"


def run(benchmark: Any, checked: Verifier, texts: Iterator[str], request: AccessRequest = REQUEST, **info: Any) -> None:
    """Time one decision a round, each of another call, each asserted to be an allow."""
    benchmark.extra_info.update(info)

    def decide(text: str) -> None:
        assert checked.decide(text, request).code == "ok"

    benchmark.pedantic(decide, setup=lambda: ((next(texts),), {}), rounds=ROUNDS, warmup_rounds=WARMUP)
    checked.close()


@pytest.mark.parametrize("hops", HOPS)
def test_arx_parent_seen(benchmark: Any, tmp_path: Path, hops: int) -> None:
    """The parent was met before: one HMAC, the proof, the rules, the epoch, the nonce, the record."""
    benchmark.group = group(hops)
    parent = handed(hops)
    chars = len(next(calls(parent, count=1)))
    run(benchmark, verifier(tmp_path), calls(parent, count=ROUNDS + WARMUP), ours=True, chars=chars)


@pytest.mark.parametrize("hops", HOPS)
def test_arx_first_sight(benchmark: Any, tmp_path: Path, hops: int) -> None:
    """Nothing was met before: the whole chain is decoded, folded, read and compiled, and kept for the next call."""
    benchmark.group = group(hops)
    checked = verifier(tmp_path, cache_bytes=0)
    run(benchmark, checked, calls(handed(hops), count=ROUNDS + WARMUP))


@pytest.mark.parametrize("hops", HOPS)
def test_arx_many_live_parents(benchmark: Any, tmp_path: Path, hops: int) -> None:
    """2 000 parents are live and come in no order, so that the processor's caches do not help."""
    benchmark.group = group(hops)
    checked = verifier(tmp_path)
    parents = [handed(hops, number) for number in range(LIVE)]
    for _ in range(2):
        for text in calls(*parents, count=LIVE):
            assert checked.decide(text, REQUEST).code == "ok"
    texts = list(calls(*parents, count=ROUNDS + WARMUP))
    random.Random(1).shuffle(texts)
    run(benchmark, checked, iter(texts))


@pytest.mark.parametrize("hops", HOPS)
@pytest.mark.parametrize("peer", ["tenuo", "pymacaroons", "PyJWT HS256", "PyJWT EdDSA"])
def test_peer(benchmark: Any, peer: str, hops: int) -> None:
    """The closest equivalent work of another library."""
    benchmark.group = group(hops)
    work: Callable[[], Any]
    if peer == "tenuo":
        chain = peers.Tenuo(hops)
        benchmark.extra_info["chars"] = len(chain.text) + 86  # and the 64 bytes of the proof in base64
        work = chain.check()
    elif peer == "pymacaroons":
        benchmark.extra_info["chars"] = len(peers.pymacaroon(hops).serialize())
        work = peers.pymacaroons_check(hops)
    else:
        work = peers.jwt_check(peer.removeprefix("PyJWT "), hops)
    benchmark(work)


def test_arx_http_call(benchmark: Any, tmp_path: Path) -> None:
    """The same with the proof of an HTTP request instead of tool and arguments, its body hashed before."""
    benchmark.group = group(3)
    request = AccessRequest(TOOL, ARGS, AT, "192.0.2.7", HttpCall("POST", b"/refunds", bytes(32)))
    signer = proofs.CallSigner(handed(3), "orders")
    fields = proofs.fields_of(request)
    texts = iter([signer.sign(fields, AT) for _ in range(ROUNDS + WARMUP)])
    run(benchmark, verifier(tmp_path), texts, request)


def test_arx_refusal_of_a_forged_token(benchmark: Any, tmp_path: Path) -> None:
    """What a stranger's junk costs: an altered token of three hand-overs, refused as ``bad_signature``."""
    benchmark.group = group(3)
    checked = verifier(tmp_path)
    text = next(calls(handed(3), count=1))
    forged = text[:-5] + ("A" if text[-5] != "A" else "B") + text[-4:]

    def refuse() -> None:
        assert checked.decide(forged, REQUEST).code == "bad_signature"

    benchmark(refuse)
    checked.close()
