# SPDX-License-Identifier: Apache-2.0
"""Vectors of what a holder writes (SPEC 5.2, 6.6, 8 and 16): the exact text of a call, a delegation, an attenuation."""

from typing import Any

from tests.vectors.second import (
    ANYTHING,
    AT,
    FIRST,
    HOP,
    HOP2,
    NONCE,
    SECOND,
    THIRD,
    Holder,
    Token,
    bound,
    bound_call,
    call,
    canonical,
    discharge,
    hop,
    joined,
    mint,
    mint_bound,
    requiring,
)

Vectors = dict[str, dict[str, Any]]
TOOL: dict[str, Any] = {"tool": "orders.put", "args": {"b": [1.0, 0.5, None], "a": "ä", "\U0001f600": 1, "\ue000": 2}}
HTTP: dict[str, Any] = {"tool": "", "args": {}, "http": {"method": "POST", "target": "/orders?x=1", "body": '{"id":1}'}}
BARE: dict[str, Any] = {"tool": "", "args": {}, "http": {"method": "GET", "target": "/orders?", "body": ""}}
SENT: dict[str, Any] = {"tool": "", "args": {}, "http": {"method": "GET", "target": "/orders", "body": ""}}


def vectors() -> Vectors:
    """All of this file."""
    return calls() | bound_calls() | delegations()


def vector(spec: str, comment: str, task: Token, text: str, **asked: Any) -> dict[str, Any]:
    """One vector."""
    return {"comment": comment, "spec": spec, "task": task.text(), **asked, "expect": {"text": text}}


def signed(
    spec: str,
    comment: str,
    task: Token,
    request: dict[str, Any],
    caveat: dict[str, Any],
    *,
    holder: Holder | None = None,
    signs: bool = False,
    discharges: tuple[Token, ...] = (),
    at: int = AT,
    nonce: bytes = NONCE,
) -> dict[str, Any]:
    """The vector of a call."""
    text = joined(task.with_caveats(caveat), *(bound(made, task) for made in discharges))
    asked = {"audience": "orders", "holder": None if holder is None else holder.seed.hex(), "signs": signs}
    asked |= {"request": request, "at": at, "nonce": nonce.hex(), "discharges": [made.text() for made in discharges]}
    return vector(spec, comment, task, text, call=asked)


def calls() -> Vectors:
    """SPEC 8.1 and 8.2."""
    found = {}
    # The texts of these end at each of the three places in a group of four characters.
    for number in range(3):
        task = mint(model="m" * (number + 1))
        found[f"sign-call-{number}"] = signed("8.1", "kind tool", task, TOOL, call(TOOL))
    task, asks = mint(ANYTHING, {"exp": AT + 9000}), requiring(mint())
    other = b"\xff" * 16
    return found | {
        "sign-http": signed("8.2", "kind http", task, HTTP, call(HTTP)),
        "sign-http-empty-query": signed("8.2", "an empty query has no question mark", task, BARE, call(SENT)),
        "sign-nonce": signed("8.1", "another nonce", task, TOOL, call(TOOL, nonce=other), nonce=other),
        "sign-time": signed("8.1", "13 digits, the least", task, TOOL, call(TOOL, at=10**12), at=10**12),
        "sign-discharge": signed(
            "6.6", "the discharge is bound to the task's token", asks, TOOL, call(TOOL), discharges=(discharge(),)
        ),
    }


def bound_calls() -> Vectors:
    """SPEC 16.3."""
    root = mint_bound()
    handed = root.with_caveats(hop(root, FIRST, "acme/worker", SECOND.public))
    vouched = mint_bound(vouched=1).with_caveats({"hop": HOP, "to": "acme/worker"})

    def of(task: Token, by: Holder, hops: tuple[str, ...], comment: str, *, signs: bool = False, **request: Any) -> Any:
        asked = request or TOOL
        caveat = bound_call(task, by, asked, hops=hops, sign=signs)
        return signed("16.3", comment, task, asked, caveat, holder=by, signs=signs)

    return {
        "sign-bound": of(root, FIRST, (), "proved by X25519 and HMAC"),
        "sign-bound-http": of(root, FIRST, (), "of kind http", **HTTP),
        "sign-bound-delegated": of(handed, SECOND, (HOP,), "by the last holder"),
        "sign-bound-vouched": of(vouched, FIRST, (HOP,), "by the holder behind what the mint vouches for"),
        "sign-bound-evidence": of(root, FIRST, (), "signed for others to check", signs=True),
        "sign-bound-delegated-evidence": of(handed, SECOND, (HOP,), "signed by the last holder", signs=True),
    }


def delegations() -> Vectors:
    """SPEC 5.2, 6.1 and 16.2."""
    rules = {"allow": [{"args": {"x": {"max": 5}}, "open": True, "tool": "orders.*"}], "exp": AT + 5000, "depth": 1}
    root, bearer = mint_bound(), mint()
    handed = root.with_caveats(hop(root, FIRST, "acme/worker", SECOND.public))
    further = hop(handed, SECOND, "acme/worker/helper", THIRD.public, name=HOP2, hops=(HOP,), **rules)
    narrow = hop(root, FIRST, "acme/worker", SECOND.public, net=["10.0.0.0/8"], task="t-1")

    def delegated(
        comment: str,
        task: Token,
        to: str,
        caveat: dict[str, Any],
        *,
        name: str = HOP,
        restrictions: dict[str, Any] | None = None,
        key: str | None = None,
        by: Holder | None = None,
    ) -> dict[str, Any]:
        asked = {"to": to, "hop": name, "caveat": restrictions or {}, "key": key}
        asked |= {"holder": None if by is None else by.seed.hex()}
        spec = "5.2" if by is None else "16.2"
        return vector(spec, comment, task, task.with_caveats(caveat).text(), delegate=asked)

    to: dict[str, Any] = {"hop": HOP, "to": "acme/worker"}
    restrictions = {"net": ["10.0.0.0/8"], "task": "t-1"}
    faces = {"allow": [{"args": {"é": "\u2028\u001f/\\\U0001f600"}, "tool": "*"}]}
    return {
        "delegate": delegated("a delegation alone", bearer, "acme/worker", to),
        "delegate-restricted": delegated("with restrictions", bearer, "acme/worker", to | rules, restrictions=rules),
        "delegate-bound": delegated(
            "signed by the holder",
            root,
            "acme/worker",
            hop(root, FIRST, "acme/worker", SECOND.public),
            key=SECOND.public,
            by=FIRST,
        ),
        "delegate-bound-restricted": delegated(
            "`sig` stands among the other members",
            root,
            "acme/worker",
            narrow,
            restrictions=restrictions,
            key=SECOND.public,
            by=FIRST,
        ),
        "delegate-bound-further": delegated(
            "by the next holder",
            handed,
            "acme/worker/helper",
            further,
            name=HOP2,
            restrictions=rules,
            key=THIRD.public,
            by=SECOND,
        ),
        "attenuate": vector("6.1", "restrictions alone", bearer, bearer.with_caveats(rules).text(), attenuate=rules),
        "attenuate-texts": vector(
            "3.1", "canonical JSON", bearer, bearer.with_caveats(canonical(faces)).text(), attenuate=faces
        ),
    }
