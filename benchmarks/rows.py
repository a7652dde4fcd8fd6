# SPDX-License-Identifier: Apache-2.0
"""What is compared: each work, ours first, and who does it.  What each one does is in docs/performance.md."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from arx_verifier.constraints.rule import Rule
from arx_verifier.request import AccessRequest
from arx_verifier.token import call_proof
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat, bind, issue_discharge, join, require_discharge
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.verifier import Verifier
from benchmarks.measure import Batch, each, repeated
from benchmarks.peer_biscuit import ONLY_TO_AND_EXP, Blocks, checks
from benchmarks.peer_biscuit import PLAIN as PLAIN_CHECKS
from benchmarks.peer_jose import Joserfc, PyJwt
from benchmarks.peer_macaroons import PLAIN, Bakery, Pymacaroons, chain, predicates
from benchmarks.peer_tenuo import Chain
from benchmarks.world import ARGS, AT, FIELDS, REQUEST, TOOL, calls, five, handed, open_token, root, verifier

HOPS: Final = (1, 3, 5)
LIVE: Final = 2000
PACKAGES: Final = (
    "arx-verifier", "msgspec", "tenuo", "pymacaroons", "macaroonbakery", "biscuit-python", "PyJWT", "joserfc",
    "cryptography",
)  # fmt: skip


class Row(NamedTuple):
    """One work and everybody who does it.

    Attributes:
        work: What it is.
        contenders: By name; ratios are to the first one.
        chars: How long the texts are, where that says something, by name.
        waits: Whether they wait for another process.
    """

    work: str
    contenders: dict[str, Batch]
    chars: dict[str, int]
    waits: bool = False


class Verifiers:
    """Makes verifiers with journals in one folder, and closes them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._numbers = folder, itertools.count()
        self._made: list[Verifier] = []

    def make(self, **more: Any) -> Verifier:
        """Make one as a service has it, its journal on disk."""
        self._made.append(verifier(self.folder / str(next(self._numbers)), **more))
        return self._made[-1]

    def close(self) -> None:
        """Close them all."""
        for made in self._made:
            made.close()


def allow(checked: Verifier) -> Callable[[str], None]:
    """Return what decides about one text, and fails unless that is an allow."""
    decide, request = checked.decide, REQUEST

    def work(text: str) -> None:
        assert decide(text, request).code == "ok"

    return work


def decisions(made: Verifiers) -> Iterator[Row]:
    """Text in, recorded decision out, at each number of delegations."""
    for hops in HOPS:
        parent, chained = handed(hops), Chain(hops)
        others = {
            "pymacaroons": Pymacaroons(chain(hops)),
            "macaroonbakery": Bakery(chain(hops)),
            "biscuit": Blocks(checks(1000), *(checks(900 - hop) for hop in range(hops))),
            "PyJWT HS256": PyJwt("HS256", hops),
            "PyJWT EdDSA": PyJwt("EdDSA", hops),
            "joserfc HS256": Joserfc("HS256", hops),
        }
        ours = {
            "ARx, parent seen": each(allow(made.make()), signing(parent)),
            "ARx, 2 000 live parents": live_parents(made.make(), hops),
            "ARx, first sight": each(allow(made.make(cache_bytes=0)), signing(parent)),
            "ARx, first sight, no word known": strangers(made.make(cache_bytes=0), hops),
            "ARx, with a discharge": each(allow(made.make()), discharging(parent)),
        }
        chars = {name: len(other.text) for name, other in others.items()}
        chars |= {"ARx, parent seen": len(next(calls(parent, count=1))), "tenuo": len(chained.text) + 86}
        theirs = {"tenuo": chained.decide()} | {name: other.decide() for name, other in others.items()}
        yield Row(f"decide, {hops} delegation{'s' if hops > 1 else ''}, five constraints each", ours | theirs, chars)


def signing(*parents: Macaroon) -> Callable[[int], Iterable[str]]:
    """Return what signs so many calls, of these parents in turn."""
    signers = itertools.cycle([call_proof.CallSigner(parent, "orders") for parent in parents])
    return lambda count: [next(signers).sign(FIELDS, AT) for _ in range(count)]


def discharging(parent: Macaroon) -> Callable[[int], Iterable[str]]:
    """Return what signs so many calls of a token that needs an approval, with the approval."""
    raw = ThirdPartyCaveat("k1.0:t-1", (TOOL,)).encode()
    token = require_discharge(parent, raw, bytes(32))
    approved = Caveat(allow=(Rule(tool=TOOL, args=dict(ARGS)),), exp=AT + 600_000, task="a-1")
    bound = bind(issue_discharge(raw, bytes(32), realm="acme", caveats=(approved,)), token)
    sign = signing(token)
    return lambda count: [join(text, [bound]) for text in sign(count)]


def live_parents(checked: Verifier, hops: int) -> Batch:
    """Very many parents are live and come in no order, so that the processor's caches do not help."""
    parents = [handed(hops, number) for number in range(LIVE)]
    for _ in range(2):
        for text in calls(*parents, count=LIVE):
            assert checked.decide(text, REQUEST).code == "ok"
    # Each 619th of 2 000 comes to all of them, far apart.
    return each(allow(checked), signing(*[parents[number * 619 % LIVE] for number in range(LIVE)]))


def strangers(checked: Verifier, hops: int) -> Batch:
    """Each token is about another order, so that none of its constraints was compiled before."""
    numbers = itertools.count()

    def make(count: int) -> list[tuple[str, AccessRequest]]:
        made = []
        for _ in range(count):
            number = next(numbers)
            args = ARGS | {"order": f"s-{number}"}
            signer = call_proof.CallSigner(handed(hops, number, order=f"s-{number}"), "orders")
            made.append(
                (signer.sign(call_proof.tool_fields(TOOL, args), AT), AccessRequest(TOOL, args, AT, "192.0.2.7"))
            )
        return made

    def work(call: tuple[str, AccessRequest]) -> None:
        assert checked.decide(*call).code == "ok"

    return each(work, make)


def plain(made: Verifiers) -> Row:
    """Five restrictions and no proof: audience, task, expiry, tool target, delegation."""
    text, apart = open_token().encode(), open_token(apart=True).encode()
    seen, new = made.make(), made.make(cache_bytes=0)
    others = {
        "pymacaroons": Pymacaroons(PLAIN),
        "macaroonbakery": Bakery(PLAIN),
        "biscuit": Blocks(PLAIN_CHECKS),
        "PyJWT HS256": PyJwt("HS256", None),
        "joserfc HS256": Joserfc("HS256", None),
    }
    ours = {
        "ARx, seen": repeated(lambda: allow_plain(seen, text)),
        "ARx, first sight": repeated(lambda: allow_plain(new, text)),
        "ARx, five caveats, seen": repeated(lambda: allow_plain(seen, apart)),
        "ARx, five caveats, first sight": repeated(lambda: allow_plain(new, apart)),
    }
    chars = {"ARx, seen": len(text), "ARx, five caveats, seen": len(apart)} | {
        name: len(other.text) for name, other in others.items()
    }
    return Row("decide, five restrictions, no proof", ours | {n: o.decide() for n, o in others.items()}, chars)


def allow_plain(checked: Verifier, text: str) -> None:
    """Decide about one text, and fail unless that is an allow."""
    assert checked.decide(text, REQUEST).code == "ok"


def holders() -> Iterator[Row]:
    """What a holder and a mint do."""
    text, attenuate, short = root().encode(), five(900), Caveat(exp=AT + 300_000)
    macaroon, biscuit, warrants = Pymacaroons(chain(0)), Blocks(checks(1000)), Chain(0)
    full = {
        "ARx": repeated(lambda: Macaroon.parse(text).delegate("acme/worker", attenuate).encode()),
        "tenuo": warrants.delegate(100),
        "pymacaroons": macaroon.delegate(predicates(100)),
        "biscuit": biscuit.delegate(checks(100)),
    }
    yield Row("delegate one hop, five constraints", full, {})
    bare = {
        "ARx": repeated(lambda: Macaroon.parse(text).delegate("acme/worker", short).encode()),
        "pymacaroons": macaroon.delegate(["to acme/worker", "expires 2099-01-01"]),
        "biscuit": biscuit.delegate(ONLY_TO_AND_EXP),
    }
    yield Row("delegate one hop, only `to` and `exp`", bare, {})
    signer = call_proof.CallSigner(handed(3), "orders")
    signed, proved, other = Chain(3), PyJwt("EdDSA", 3), Joserfc("Ed25519", 3)
    signers = {
        "ARx": repeated(lambda: signer.sign(FIELDS, AT)),
        "tenuo": repeated(signed.sign),
        "PyJWT EdDSA": repeated(proved.sign),
        "joserfc EdDSA": repeated(other.sign),
    }
    yield Row("make the per-call token", signers, {"tenuo": 86, "PyJWT EdDSA": len(proved.sign())})
    mints = {
        "ARx": repeated(lambda: root().encode()),
        "tenuo": warrants.mint(),
        "pymacaroons": macaroon.mint(),
        "biscuit": biscuit.mint(),
        "PyJWT HS256": PyJwt("HS256", 0).mint(),
        "PyJWT EdDSA": PyJwt("EdDSA", 0).mint(),
        "joserfc HS256": Joserfc("HS256", 0).mint(),
    }
    yield Row("mint a token of five constraints", mints, {"ARx": len(text), "pymacaroons": len(macaroon.text)})


def rows(made: Verifiers) -> Iterator[Row]:
    """Everything that is compared with others."""
    yield from decisions(made)
    yield plain(made)
    yield from holders()
