# SPDX-License-Identifier: Apache-2.0
"""Vectors of holder keys: bound tokens, signed delegations, calls that a holder proves (SPEC 16)."""

import base64
from typing import Any, Final

from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import (
    ANYTHING,
    AT,
    FIRST,
    HOP,
    HOP2,
    OTHER_KEY,
    SECOND,
    THIRD,
    Holder,
    Token,
    aud_key_of,
    bound_call,
    canonical,
    holder,
    hop,
    identifier,
    mint,
    mint_bound,
    requiring,
    text,
)
from tests.vectors.spend_vectors import COSTS, pool

REQUEST: Final[dict[str, Any]] = {"args": {}, "tool": "orders.get"}
THIEF: Final = holder("thief")
SIGNED: Final[dict[str, Any]] = {"require": ["signature"]}
# The points of order 1, 2 and 4, as Ed25519 writes them; and zero, the one of X25519.
SMALL: Final = {
    "one": bytes([1]) + bytes(31),
    "two": b"\xec" + b"\xff" * 30 + b"\x7f",
    "four": bytes(32),
}
BEYOND: Final = b"\xf0" + b"\xff" * 30 + b"\x7f"  # p + 3: another spelling of a point


def vectors() -> Vectors:
    """All of this file."""
    return identifiers() | delegations() | pools() | grafts() | vouched() | calls() | keys() | signatures()


def called(token: Token, by: Holder, *hops: str, **changes: Any) -> Token:
    """A token with the call that its holder proves."""
    return token.with_caveats(bound_call(token, by, REQUEST, hops=hops, **changes))


def one_hop(token: Token | None = None, **members: Any) -> Token:
    """A token that the first holder delegated to the second."""
    token = mint_bound() if token is None else token
    return token.with_caveats(hop(token, FIRST, "acme/worker", SECOND.public, **members))


def two_hops(**members: Any) -> Token:
    """A token that the second holder delegated to the third."""
    token = one_hop()
    return token.with_caveats(hop(token, SECOND, "acme/worker/helper", THIRD.public, name=HOP2, hops=(HOP,), **members))


def pools() -> Vectors:
    """SPEC 17.3: pools behind a signed delegation."""
    behind = one_hop().with_caveats(pool("1"))
    helper = hop(behind, SECOND, "acme/worker/helper", THIRD.public, name=HOP2, hops=(HOP,))
    two, cut = behind.with_caveats(helper), one_hop().with_caveats(helper)
    small = called(behind.with_caveats(pool("0.3")), SECOND, HOP)
    return {
        "bound-pool": vector(
            "17.3", "grant", called(behind, SECOND, HOP), "a pool behind the signature of who opened it", costs=COSTS
        ),
        "bound-pool-smaller": vector(
            "17.3", "insufficient_budget", small, "the next holder makes its own pool smaller", costs=COSTS
        ),
        "bound-pool-signed": vector(
            "17.3", "grant", called(two, THIRD, HOP, HOP2), "the next delegation signs for the pool", costs=COSTS
        ),
        "bound-pool-cut": vector(
            "17.3",
            "bad_signature",
            called(cut, THIRD, HOP, HOP2),
            "a pool that the next delegation signed for is taken out",
            costs=COSTS,
        ),
    }


def identifiers() -> Vectors:
    """SPEC 16.1 and 16.4."""
    alone = mint(holder=FIRST.public)
    keyed = mint(aud_key=aud_key_of())
    other = mint_bound(aud_key=aud_key_of(OTHER_KEY))
    return {
        "bound": vector("16.1", "grant", called(mint_bound(), FIRST), "its holder calls"),
        "bound-no-aud-key": vector("16.1", "malformed", alone, "a holder, and no key of the audience"),
        "bound-no-holder": vector("16.1", "malformed", keyed, "a key of the audience, and no holder"),
        "bound-short-holder": vector("16.1", "malformed", mint_bound(holder=FIRST.public[:-1]), "42 characters"),
        "bound-other-aud-key": vector(
            "16.4", "malformed", called(other, FIRST, aud_key=aud_key_of(OTHER_KEY)), "the key of another audience"
        ),
        "bound-altered-aud-key": vector(
            "16.4",
            "bad_signature",
            called(
                mint_bound()._replace(
                    identifier=canonical(identifier(holder=FIRST.public, aud_key=aud_key_of(OTHER_KEY)))
                ),
                FIRST,
                aud_key=aud_key_of(OTHER_KEY),
            ),
            "who handed the token out wrote a key of its own into it",
        ),
        "bound-altered-holder": vector(
            "16.1",
            "bad_signature",
            called(
                mint_bound()._replace(identifier=canonical(identifier(holder=THIEF.public, aud_key=aud_key_of()))),
                THIEF,
            ),
            "a thief wrote its own key into the token",
        ),
    }


def delegations() -> Vectors:
    """SPEC 16.2."""
    root = mint_bound()
    worker = hop(root, FIRST, "acme/worker", SECOND.public)
    without = {name: value for name, value in worker.items() if name not in ("key", "sig")}
    late = canonical(worker)
    sig = b'"sig":"' + worker["sig"].encode() + b'"'
    reordered = late.replace(sig + b',"to":"acme/worker"', b'"to":"acme/worker",' + sig)
    early = canonical(hop(root, FIRST, "acme/worker", SECOND.public, nbf=1))
    early_sig = late_sig = b'"sig":"' + early.partition(b'"sig":"')[2][:86] + b'"'
    early = early.replace(b',"nbf":1,' + late_sig, b"," + early_sig + b',"nbf":1')
    bearer = mint()
    narrowed = one_hop(exp=1_800_000_500_000, require=["call"], allow=[{"tool": "orders.get"}])
    return {
        "bound-hop": vector("16.2", "grant", called(one_hop(), SECOND, HOP), "signed by the holder before"),
        "bound-hops": vector("16.2", "grant", called(two_hops(), THIRD, HOP, HOP2), "each signed by the holder before"),
        "bound-hop-narrowed": vector("16.2", "grant", called(narrowed, SECOND, HOP), "with restrictions on both sides"),
        "bound-hop-all-members": vector(
            "16.2",
            "grant",
            called(
                one_hop(nbf=1, net=["192.0.2.0/24"], once=["a-1", AT], require=["call"], task="t-1", depth=0),
                SECOND,
                HOP,
            ),
            "`sig` stands among the other members",
        ),
        "bound-hop-too-narrow": vector(
            "16.2",
            "tool_not_allowed",
            called(one_hop(allow=[{"tool": "orders.list"}]), SECOND, HOP),
            "the holder before allows another tool",
        ),
        "bound-hop-unsigned": vector(
            "16.2", "malformed", called(root.with_caveats(without), FIRST, HOP), "in a bound token each is signed"
        ),
        "bound-hop-second-unsigned": vector(
            "16.2",
            "malformed",
            called(one_hop().with_caveats({"hop": HOP2, "to": "acme/worker/helper"}), SECOND, HOP, HOP2),
            "a bound chain does not become a bearer's",
        ),
        "bound-hop-key-alone": vector(
            "16.2", "malformed", root.with_caveats(without | {"key": SECOND.public}), "a key without a signature"
        ),
        "bound-hop-sig-alone": vector(
            "16.2", "malformed", root.with_caveats(without | {"sig": worker["sig"]}), "a signature without a key"
        ),
        "bound-hop-no-to": vector(
            "16.2",
            "malformed",
            root.with_caveats({"key": SECOND.public, "sig": worker["sig"]}),
            "a key in a caveat that is no delegation",
        ),
        "bound-hop-reordered": vector("16.2", "malformed", root.with_caveats(reordered), "`sig` behind `to`"),
        "bound-hop-early-sig": vector("16.2", "malformed", root.with_caveats(early), "`sig` before `nbf`"),
        "bound-hop-short-sig": vector(
            "16.2", "malformed", root.with_caveats(worker | {"sig": worker["sig"][:-1]}), "85 characters"
        ),
        "bearer-hop-signed": vector(
            "16.2",
            "malformed",
            bearer.with_caveats(hop(bearer, FIRST, "acme/worker", SECOND.public)),
            "a bearer chain does not become a bound one",
        ),
        "bound-hop-argument-named-hop": vector(
            "16.2",
            "argument_not_allowed",
            called(
                root.with_caveats(
                    {"allow": [{"args": {"hop": HOP, "key": SECOND.public, "sig": worker["sig"]}, "tool": "*"}]}
                ),
                FIRST,
            ),
            "arguments of these names are no delegation",
        ),
    }


def grafts() -> Vectors:
    """SPEC 16.2: signatures of another holder, of another token, of another delegation."""
    root = mint_bound()
    worker = hop(root, FIRST, "acme/worker", SECOND.public)
    stolen = hop(root, THIEF, "acme/worker", THIEF.public)
    narrow = root.with_caveats({"allow": [{"tool": "orders.list"}]})
    other = mint_bound(id=text(b"token-id-0000002"))
    second = two_hops()
    elsewhere = mint_bound(aud="payments")
    swapped = root.with_caveats(*second.caveats[:0:-1])
    cut = root.with_caveats(second.caveats[-1])
    return {
        "bound-hop-stolen-text": vector(
            "16.2",
            "bad_signature",
            called(root.with_caveats(stolen), THIEF, HOP),
            "a thief delegates the text to itself",
        ),
        "bound-hop-other-key": vector(
            "16.2",
            "bad_signature",
            called(root.with_caveats(worker | {"key": THIEF.public}), THIEF, HOP),
            "the next holder's key was replaced",
        ),
        "bound-hop-other-to": vector(
            "16.2",
            "bad_signature",
            called(root.with_caveats(worker | {"to": "acme/boss"}), SECOND, HOP),
            "the next holder's name was replaced",
        ),
        "bound-hop-other-hop": vector(
            "16.2",
            "bad_signature",
            called(root.with_caveats(worker | {"hop": HOP2}), SECOND, HOP2),
            "the link was replaced",
        ),
        "bound-hop-widened": vector(
            "16.2",
            "bad_signature",
            called(root.with_caveats(hop(narrow, FIRST, "acme/worker", SECOND.public)), SECOND, HOP),
            "what the holder had restricted before it signed was left out",
        ),
        "bound-hop-restriction-dropped": vector(
            "16.2",
            "bad_signature",
            called(
                root.with_caveats(
                    {
                        name: value
                        for name, value in hop(root, FIRST, "acme/worker", SECOND.public, depth=0).items()
                        if name != "depth"
                    }
                ),
                SECOND,
                HOP,
            ),
            "a restriction of the delegation was left out",
        ),
        "bound-hop-of-another-token": vector(
            "16.2",
            "bad_signature",
            called(other.with_caveats(worker), SECOND, HOP),
            "signed for another token of the same holder",
        ),
        "bound-hop-of-another-audience": vector(
            "16.2",
            "bad_signature",
            called(
                root.with_caveats(hop(elsewhere, FIRST, "acme/worker", SECOND.public, audience="payments")), SECOND, HOP
            ),
            "signed for another service's token of the same task",
        ),
        "bound-hop-of-another-realm": vector(
            "16.2",
            "bad_signature",
            called(root.with_caveats(hop(root, FIRST, "acme/worker", SECOND.public, realm="emca")), SECOND, HOP),
            "signed for another realm",
        ),
        "bound-hops-reordered": vector(
            "16.2", "bad_signature", called(swapped, SECOND, HOP2, HOP), "the delegations were exchanged"
        ),
        "bound-hops-cut": vector(
            "16.2", "bad_signature", called(cut, THIRD, HOP2), "the first delegation was cut out of the chain"
        ),
        "bound-hop-skipped": vector(
            "16.2",
            "bad_signature",
            called(
                one_hop().with_caveats(
                    hop(one_hop(), FIRST, "acme/worker/helper", THIRD.public, name=HOP2, hops=(HOP,))
                ),
                THIRD,
                HOP,
                HOP2,
            ),
            "signed by the first holder, not by the second",
        ),
        "bound-hop-after-approval": vector(
            "16.2",
            "grant",
            called(
                (token := requiring(root)).with_caveats(hop(token, FIRST, "acme/worker", SECOND.public)), SECOND, HOP
            ),
            "a third-party caveat is covered as well",
        ),
    }


def vouched() -> Vectors:
    """SPEC 16.2: delegations that the mint has proven."""
    bare = {"hop": HOP, "to": "acme/worker"}
    token = mint_bound(vouched=1).with_caveats(bare)
    further = token.with_caveats(hop(token, FIRST, "acme/worker/helper", SECOND.public, name=HOP2, hops=(HOP,)))
    root = mint_bound(vouched=1)
    signed = root.with_caveats(hop(root, FIRST, "acme/worker", SECOND.public))
    more = token.with_caveats({"hop": HOP2, "to": "acme/thief"})
    return {
        "vouched": vector("16.2", "grant", called(token, FIRST, HOP), "the mint vouches for the delegation"),
        "vouched-further": vector("16.2", "grant", called(further, SECOND, HOP, HOP2), "delegated once more"),
        "vouched-none-left": vector(
            "16.2", "malformed", called(more, FIRST, HOP, HOP2), "one delegation more than the mint vouches for"
        ),
        "vouched-signed": vector("16.2", "malformed", called(signed, SECOND, HOP), "vouched for and signed"),
        "vouched-fewer": vector("16.2", "malformed", called(root, FIRST), "a thief could add the one that lacks"),
        "vouched-zero": vector("4.1", "malformed", mint_bound(vouched=0), "none is left out"),
        "vouched-bearer": vector("4.1", "malformed", mint(vouched=1), "a bearer token has nothing to vouch for"),
    }


def calls() -> Vectors:
    """SPEC 16.3: what proves that the last holder made a call."""
    token, handed = mint_bound(), one_hop()
    plain = bound_call(token, FIRST, REQUEST)["call"][:3]
    right = bound_call(token, FIRST, REQUEST)["call"]
    bearer = mint()
    elsewhere = mint_bound(key=OTHER_KEY, kid="k1.0")
    return {
        "bound-no-call": vector("16.3", "proof_missing", token, "the text alone"),
        "bound-hop-no-call": vector("16.3", "proof_missing", handed, "the text of a delegated token alone"),
        "bound-call-without-proof": vector(
            "16.3", "proof_missing", token.with_caveats({"call": plain}), "a call as of a bearer token"
        ),
        "bearer-call-with-proof": vector(
            "16.3",
            "malformed",
            bearer.with_caveats(bound_call(bearer, FIRST, REQUEST)),
            "a bearer token has no holder's key",
        ),
        "bound-call-stolen": vector("16.3", "proof_invalid", called(token, THIEF), "another key than the holder's"),
        "bound-call-of-the-delegator": vector(
            "16.3", "proof_invalid", called(handed, FIRST, HOP), "the holder before calls with the delegated token"
        ),
        "bound-call-of-another-token": vector(
            "16.3",
            "proof_invalid",
            token.with_caveats(bound_call(handed, FIRST, REQUEST, hops=(HOP,))),
            "the proof of a call with another token of the same holder",
        ),
        "bound-call-of-another-service": vector(
            "16.3",
            "proof_invalid",
            called(token, FIRST, aud_key=aud_key_of(OTHER_KEY)),
            "proved by the key of another service: it could not make this proof",
        ),
        "bound-call-for-another-audience": vector(
            "16.3",
            "proof_invalid",
            token.with_caveats(bound_call(token, FIRST, REQUEST, audience="payments")),
            "one key of a holder, and the name of another audience",
        ),
        "bound-call-other-tool": vector(
            "16.3",
            "proof_invalid",
            token.with_caveats(bound_call(token, FIRST, REQUEST | {"tool": "orders.list"})),
            "the right key, and another call",
        ),
        "bound-call-altered": vector(
            "16.3",
            "proof_invalid",
            token.with_caveats({"call": [*right[:2], text(b"nonce-0000000002"), right[3]]}),
            "another nonce than was proved",
        ),
        "bound-call-cut-proof": vector(
            "16.3", "malformed", token.with_caveats({"call": [*right[:3], right[3][:-1]]}), "21 characters"
        ),
        "bound-call-loose-bits": vector(
            "16.3",
            "malformed",
            token.with_caveats({"call": [*right[:3], right[3][:-1] + "B"]}),
            "bits after the last byte of the proof",
        ),
        "bound-call-twice": vector("16.3", "replayed", called(token, FIRST), "spent once", times=2),
        "bound-attenuated": vector(
            "16.3",
            "grant",
            called(handed.with_caveats({"exp": 1_800_000_300_000}), SECOND, HOP),
            "the holder restricted it for itself",
        ),
        "bound-of-another-key": vector(
            "16.3", "bad_signature", called(elsewhere, FIRST, aud_key=aud_key_of(OTHER_KEY)), "another audience's key"
        ),
    }


def mixed_key(public: str) -> str:
    """The sum of a key's point (x, y) and the point of order two: (-x, -y)."""
    raw = int.from_bytes(base64.urlsafe_b64decode(public + "="), "little")
    sign, y = raw >> 255, raw & (1 << 255) - 1
    return text((((1 - sign) << 255) | (2**255 - 19 - y)).to_bytes(32, "little"))


def keys() -> Vectors:
    """SPEC 16.1: keys that are no keys."""
    found: Vectors = {}
    for name, point in (SMALL | {"beyond": BEYOND}).items():
        key = text(point)
        token = mint_bound(by=key)
        forged = hop(token, FIRST, "acme/worker", SECOND.public)
        zero = token.with_caveats(bound_call(token, Zero(b""), REQUEST))
        # With a public key of small order, S = 0 and R = the neutral element are a signature of many messages.
        easy = text(SMALL["one"] + bytes(32))
        found |= {
            f"holder-of-order-{name}": vector("16.1", "proof_invalid", zero, "no proof is right by such a key"),
            f"holder-of-order-{name}-signs": vector(
                "16.1",
                "bad_signature",
                called(token.with_caveats(forged | {"sig": easy}), SECOND, HOP),
                "a signature that such a key would accept",
            ),
        }
    root = mint_bound()
    mixed = root.with_caveats(hop(root, FIRST, "acme/worker", mixed_key(SECOND.public)))
    found["holder-of-mixed-order"] = vector(
        "16.1",
        "proof_invalid",
        called(mint_bound(by=mixed_key(FIRST.public)), FIRST),
        "a key and the point of order two, which agree with the audience on what the key does",
    )
    found["hop-to-mixed-order"] = vector(
        "16.1", "proof_invalid", called(mixed, SECOND, HOP), "delegated to the sum of a key and the point of order two"
    )
    small = root.with_caveats(hop(root, FIRST, "acme/worker", text(SMALL["four"])))
    found["hop-to-small-order"] = vector(
        "16.1",
        "proof_invalid",
        small.with_caveats(bound_call(small, Zero(b""), REQUEST, hops=(HOP,))),
        "delegated to a key that every party has",
    )
    return found


class Zero(Holder):
    """Who computes z = 0, as for a key of small order."""

    def common(self, aud_key: str) -> bytes:
        """Return zeros."""
        return bytes(32)


def signatures() -> Vectors:
    """SPEC 16.3: evidence for others."""
    token = mint_bound(ANYTHING, SIGNED)
    bearer = mint(ANYTHING, SIGNED)
    later = one_hop().with_caveats(SIGNED)
    loose = mint_bound()
    return {
        "bound-signed": vector("16.3", "grant", called(token, FIRST, sign=True), "signed for others to check"),
        "bound-signed-unasked": vector(
            "16.3", "grant", called(loose, FIRST, sign=True), "a signature proves it as well"
        ),
        "bound-signed-after-hop": vector("16.3", "grant", called(later, SECOND, HOP, sign=True), "asked by a holder"),
        "require-signature-missing": vector(
            "16.3", "proof_missing", called(token, FIRST), "proved for the service alone"
        ),
        "require-signature-bearer": vector("6.1", "proof_missing", bearer, "a bearer token has no key to sign with"),
        "require-holder-bearer": vector(
            "6.1", "proof_missing", mint(ANYTHING, {"require": ["holder"]}), "a bearer token has no holder's key"
        ),
        "require-holder-bound": vector(
            "6.1", "grant", called(mint_bound(ANYTHING, {"require": ["holder"]}), FIRST), "the token is bound"
        ),
        "bound-signed-stolen": vector("16.3", "proof_invalid", called(token, THIEF, sign=True), "another key"),
        "bound-signed-other-realm": vector(
            "16.3", "proof_invalid", called(token, FIRST, sign=True, realm="emca"), "signed for another realm"
        ),
        "bound-signed-other-link": vector(
            "16.3", "proof_invalid", called(later, SECOND, sign=True), "signed under the link before"
        ),
        "bound-signed-other-token": vector(
            "16.3",
            "proof_invalid",
            called(token, FIRST, sign=True, before=loose.signature),
            "signed for a token without the restriction",
        ),
    }
