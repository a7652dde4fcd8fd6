# SPDX-License-Identifier: Apache-2.0
"""What a refusal costs beside the grant that it is not: of the same token of three delegations, by every reason.

A parent is kept after a grant only.  So what is refused for its chain is compared with a grant at first sight, and what
is refused for its call, with a grant whose parent was seen.
"""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from arx_verifier.journal.writer import MIN_SEGMENT_BYTES, Journal
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import EpochTable, Lease, UnsafeLocalEpochs
from arx_verifier.token import call_proof, chain, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.nonces import MemoryNonces
from arx_verifier.verification.verifier import Verifier
from benchmarks.measure import Batch, each, repeated
from benchmarks.rows import Row, Verifiers, allow, signing
from benchmarks.world import ARGS, AT, FIELDS, INCARNATION, KEY, REQUEST, TOOL, handed, identifier

HOPS: Final = 3
SEEN: Final = "refuse, parent seen, three delegations"
NEW: Final = "refuse, first sight, three delegations"
APPROVED: Final = "refuse, first sight, three delegations and an approval"


def rows(made: Verifiers) -> Iterator[Row]:
    """Every reason that a caller, a holder or a service's state can bring about."""
    parent = handed(HOPS)
    seen: dict[str, Batch] = {"grant": each(allow(made.make()), signing(parent))}
    seen |= {name: batch(made) for name, batch in _of_calls(parent).items()}
    seen |= {code: _by_state(made, parent, code) for code in _STATES}
    seen["replayed"] = _replayed(made.make(), parent)
    yield Row(SEEN, seen, {})
    longer = parent.attenuate(Caveat(exp=AT + 1))  # what is refused has a caveat more than its parent, too
    new: dict[str, Batch] = {"grant": each(allow(made.make(cache_bytes=0)), signing(longer))}
    checked = made.make(cache_bytes=0)
    new |= {name: refuse(checked, text, REQUEST, name.partition(",")[0]) for name, text in _of_chains(parent)}
    yield Row(NEW, new, {})
    # What a third party must agree to costs two HMACs more, also where a call needs nobody's approval.
    grant = each(allow(made.make(cache_bytes=0)), signing(_with_third_party(parent, "orders.close")))
    needed = signed(_with_third_party(parent, TOOL))
    yield Row(
        APPROVED, {"grant": grant, "missing_discharge": refuse(checked, needed, REQUEST, "missing_discharge")}, {}
    )


def refuse(checked: Verifier, text: str, request: AccessRequest, code: str) -> Batch:
    """Return the refusal of one text, which spends nothing and so may be repeated; fails if it is no such refusal."""

    def work() -> None:
        assert checked.decide(text, request).code == code

    return repeated(work)


def see(checked: Verifier, parent: Macaroon) -> Verifier:
    """Let a verifier meet a parent twice, so that its rules are merged."""
    for text in signing(parent)(2):
        assert checked.decide(text, REQUEST).code == "ok"
    return checked


def signed(parent: Macaroon, fields: bytes = FIELDS, at: int = AT) -> str:
    """Sign one call."""
    return call_proof.CallSigner(parent, "orders").sign(fields, at)


def _of_calls(parent: Macaroon) -> dict[str, Callable[[Verifiers], Batch]]:
    """What is wrong with a call, or with the time, while the parent is known."""
    others = dict.fromkeys(ARGS, "x") | {"note": "x" * 101}  # as long as a grant's, but for what is too long
    calls: dict[str, tuple[str, AccessRequest]] = {
        "bad_signature": (_altered(signed(parent)), REQUEST),
        "expired": (signed(parent), AccessRequest(TOOL, ARGS, AT + 600_000)),
        "proof_invalid, another call": (signed(parent), AccessRequest(TOOL, ARGS | {"amount": 51}, AT)),
        "proof_invalid, too old": (signed(parent), AccessRequest(TOOL, ARGS, AT + 20_000)),
        "tool_not_allowed": _call(parent, "orders.close", ARGS),
        "argument_not_allowed, one": _call(parent, TOOL, ARGS | {"amount": 901}),
        "argument_not_allowed, all": _call(parent, TOOL, others),
    }

    def batch(name: str, made: Verifiers) -> Batch:
        return refuse(see(made.make(), parent), *calls[name], name.partition(",")[0])

    return {name: functools.partial(batch, name) for name in calls}


def _call(parent: Macaroon, tool: str, args: dict[str, Any]) -> tuple[str, AccessRequest]:
    return signed(parent, call_proof.tool_fields(tool, args)), AccessRequest(tool, args, AT, "192.0.2.7")


def _altered(text: str) -> str:
    return text[:-5] + ("A" if text[-5] != "A" else "B") + text[-4:]


def _lapsed() -> EpochTable:
    """A view whose lease ran out."""
    table = EpochTable()
    table.adopt(INCARNATION, 0, {}, {})
    table.renew(INCARNATION, 0, Lease(0, 0, 0))
    return table


def _killed(checked: Verifier) -> None:
    assert isinstance(checked.epochs, UnsafeLocalEpochs)
    checked.epochs.kill("session:s-aaaabbbbccccdddd")


def _frozen(checked: Verifier) -> None:
    assert isinstance(checked.epochs, UnsafeLocalEpochs)
    checked.epochs.freeze("agent:acme/worker-2")


def _fill(checked: Verifier) -> None:
    """Fill a journal that has room for very little."""
    signer = call_proof.CallSigner(handed(HOPS), "orders")
    while checked.decide(signer.sign(FIELDS, AT), REQUEST).code == "ok":
        pass


def _closed(checked: Verifier) -> None:
    checked.epochs.close()


def _lapse(checked: Verifier) -> None:
    checked.epochs = _lapsed()


def _begin_anew(checked: Verifier) -> None:
    checked.epochs = EpochTable()


def _no_nonces(checked: Verifier) -> None:
    checked.nonces = MemoryNonces(now_ms=AT - 60_000, capacity=0)


def _full_journal(made: Verifiers) -> Verifier:
    size = MIN_SEGMENT_BYTES
    journal = Journal(made.folder / "full", "bench-1", "orders", segment_bytes=size, max_bytes=2 * size)
    return made.make(decisions=journal)


# By name: what makes it so once the parent was seen.
_STATES: Final[dict[str, Callable[[Verifier], None]]] = {
    "revoked": _killed,
    "frozen": _frozen,
    "stale": _lapse,
    "syncing": _begin_anew,
    "closed": _closed,
    "store_unavailable": _no_nonces,
    "audit_unavailable": _fill,
}


def _by_state(made: Verifiers, parent: Macaroon, code: str) -> Batch:
    checked = see(_full_journal(made) if code == "audit_unavailable" else made.make(), parent)
    _STATES[code](checked)
    if code != "audit_unavailable":
        return refuse(checked, signed(parent), REQUEST, code)

    def work(text: str) -> None:  # the record comes after the nonce, which is spent
        assert checked.decide(text, REQUEST).code == code

    return each(work, signing(parent))


def _replayed(checked: Verifier, parent: Macaroon) -> Batch:
    text = signed(parent)
    assert see(checked, parent).decide(text, REQUEST).code == "ok"
    return refuse(checked, text, REQUEST, "replayed")


class _Raw:
    """A caveat that a holder wrote by hand."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def encode(self) -> bytes:
        return self._raw

    def delegated_to(self, to: str, hop: str) -> "_Raw":
        raise NotImplementedError


def _of_chains(parent: Macaroon) -> Iterator[tuple[str, str]]:
    """What is wrong with a chain, with its text: it is refused before anything of it is kept."""
    text = signed(parent)
    middle = len(text) // 2
    yield "malformed, no token", "x" * len(text)
    yield "malformed, one character", text[:middle] + "!" + text[middle + 1 :]
    yield "bad_signature, of a parent", text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]
    yield "unknown_key", signed(_minted(parent, kid="k2.0"))
    yield "wrong_audience", signed(_minted(parent, aud="invoices"))
    yield "wrong_audience, by a caveat", signed(parent.attenuate(Caveat(aud=("invoices",))))
    yield "unknown_caveat", signed(parent.attenuate(_Raw(b'{"weather":"fair"}')))
    yield "expired", signed(parent.attenuate(Caveat(exp=AT - 1)))
    yield "not_yet_valid", signed(parent.attenuate(Caveat(nbf=AT + 1)))
    yield "network_not_allowed", signed(parent.attenuate(Caveat(net=("10.0.0.0/8",))))
    yield "name_not_allowed", signed(parent.delegate("other/worker"))
    yield "too_deep", signed(parent.attenuate(Caveat(depth=0)).delegate("acme/worker"))
    yield "proof_missing", parent.encode()


def _minted(parent: Macaroon, **other: str) -> Macaroon:
    """The same caveats under another identifier."""
    named = msgspec.structs.replace(identifier(), **other)
    packets = [_Raw(packet) for packet in parent.packets if isinstance(packet, bytes)]
    return Macaroon.mint(named, key=KEY, realm="acme", caveats=tuple(packets))


def _with_third_party(parent: Macaroon, tool: str) -> Macaroon:
    """The same token, good for calls of a tool only once somebody has approved."""
    body, signature = parent.parts()
    wanted = ThirdPartyCaveat(os.urandom(8).hex(), (tool,)).encode()
    third = wire.ThirdPartyPacket(b"https://approve.example", wanted, os.urandom(72))
    folded = chain.extend_third_party(signature, third.verification_id, third.identifier)
    return Macaroon(body + wire.caveat_packet(third), folded)
