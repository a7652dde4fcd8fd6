# SPDX-License-Identifier: Apache-2.0
"""Vectors of a service's own limits (SPEC 20)."""

from typing import Any, NamedTuple

from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import (
    ANYTHING,
    CAVEAT_KEY,
    KEY,
    THIRD_PARTY,
    Token,
    bound,
    canonical,
    discharge,
    hkdf,
    joined,
    mint,
    requiring,
)

# AT is Friday, 2027-01-15 08:00 UTC.
OVER, YES = "over_service_limit", "grant"
REFUND: dict[str, Any] = {"args": {"amount": 50}, "tool": "orders.refund"}
MOST: dict[str, Any] = {"args": {"amount": {"max": 100}}, "open": True, "tool": "orders.refund"}
LEAST: dict[str, Any] = {"args": {"amount": {"min": 10}}, "open": True, "tool": "orders.*"}
OTHERS: dict[str, Any] = {"tool": "*"}
OTHER_PARTY = canonical({"id": "k1.0:t-aaaabbbbccccdddd", "tools": ["orders.get"]})
MINT_KEY = hkdf(KEY, b"arx/1/discharge/k1.0:t-aaaabbbbccccdddd")


class Case(NamedTuple):
    """A vector, but for its name and section."""

    expect: str
    why: str
    limits: dict[str, Any]
    token: Token | str | None = None
    request: dict[str, Any] = REFUND
    more: dict[str, Any] = {}  # noqa: RUF012 - never changed


def vectors() -> Vectors:
    """All of this file."""
    parts = {"20.2": rules() | networks(), "20.3": hours(), "20.4": approvals(), "20.5": orders()}
    return {
        f"service-limit-{name}": vector(
            section,
            case.expect,
            after() if case.token is None else case.token,
            case.why,
            limits=case.limits,
            request=case.request,
            **case.more,
        )
        for section, cases in parts.items()
        for name, case in cases.items()
    }


def after(*caveats: Any) -> Token:
    """A token that allows anything, and then these caveats."""
    return mint(ANYTHING, *caveats)


def refund(amount: Any, **more: Any) -> dict[str, Any]:
    """A refund of an amount."""
    return {"args": {"amount": amount, **more}, "tool": "orders.refund"}


def rules() -> dict[str, Case]:
    """SPEC 20.2: rules."""
    both = {"rules": [MOST, LEAST]}
    closed = {"rules": [{"args": {"amount": {"max": 100}}, "tool": "orders.refund"}]}
    deep = {"rules": [MOST, {"args": {"amount": {"max": 1}}, "open": True, "tool": "orders.get"}]}
    return {
        "rule": Case(YES, "the rule holds", {"rules": [MOST]}, request=refund(100)),
        "rule-over": Case(OVER, "above the bound", {"rules": [MOST]}, request=refund(101)),
        "rule-text": Case(OVER, "of another type", {"rules": [MOST]}, request=refund("50")),
        "rule-both": Case(YES, "two rules about one tool", both),
        "rule-first": Case(OVER, "the first of two is no choice", both, request=refund(101)),
        "rule-last": Case(OVER, "nor is the last", both, request=refund(9)),
        "rule-missing": Case(OVER, "an argument that it names", {"rules": [MOST]}, request=REFUND | {"args": {}}),
        "rule-unnamed": Case(OVER, "a closed rule does not name it", closed, request=refund(50, note="x")),
        "rule-open": Case(YES, "an open one need not", {"rules": [MOST]}, request=refund(50, note="x")),
        "rule-of-none": Case(OVER, "no rule names the tool", {"rules": [MOST]}, request={"tool": "orders.get"}),
        "rule-of-others": Case(YES, "`*` leaves it to the token", {"rules": [MOST, OTHERS]}, request={"tool": "a.b"}),
        "rule-and-others": Case(OVER, "and no more than that", {"rules": [OTHERS, MOST]}, request=refund(101)),
        "rule-of-another": Case(YES, "a rule about another tool", deep),
    }


def networks() -> dict[str, Case]:
    """SPEC 20.2: networks."""
    inside, outside = {"net": ["198.51.100.0/24", "192.0.2.0/24"]}, {"net": ["198.51.100.0/24"]}
    return {
        "net": Case(YES, "in one of them", inside),
        "net-mapped": Case(YES, "IPv4 inside IPv6", inside, request=REFUND | {"peer": "::ffff:192.0.2.7"}),
        "net-outside": Case(OVER, "in none", outside),
        "net-unknown": Case(OVER, "no address", inside, request=REFUND | {"peer": None}),
    }


def hours() -> dict[str, Case]:
    """SPEC 20.3."""
    return {
        "hours": Case(YES, "from its first minute on", {"hours": ["08:00-18:00"]}),
        "hours-end": Case(OVER, "its end is excluded", {"hours": ["07:00-08:00"]}),
        "hours-early": Case(OVER, "before its begin", {"hours": ["08:01-18:00"]}),
        "hours-day": Case(YES, "on its day", {"hours": ["fri 00:00-24:00"]}),
        "hours-days": Case(YES, "the last day of a range", {"hours": ["mon-fri 00:00-24:00"]}),
        "hours-first-day": Case(YES, "the first one", {"hours": ["fri-sun 00:00-24:00"]}),
        "hours-other-day": Case(OVER, "on another day", {"hours": ["mon-thu 00:00-24:00", "sat 00:00-24:00"]}),
        "hours-one-day": Case(OVER, "one day is no range", {"hours": ["thu 00:00-24:00"]}),
        "hours-second": Case(YES, "in one of two", {"hours": ["sat 00:00-24:00", "07:00-09:00"]}),
        "hours-last-moment": Case(
            YES, "the last moment", {"hours": ["07:00-08:00"]}, request=REFUND | {"at": 1_799_999_999_999}
        ),
    }


def approvals() -> dict[str, Case]:
    """SPEC 20.4."""
    approve = {"approve": ["orders.refund"]}
    asking, own = requiring(after(), key=MINT_KEY), requiring(after())
    made = bound(discharge({"exp": 1_800_000_060_000}, key=MINT_KEY), asking)
    other = requiring(after(), OTHER_PARTY, MINT_KEY)
    return {
        "approve": Case(YES, "an approval of the mint", approve, joined(asking, made)),
        "approve-unasked": Case(OVER, "a token that asks for none", approve),
        "approve-missing": Case("missing_discharge", "it asks, and there is none", approve, asking),
        "approve-own": Case(
            OVER,
            "by a key that is not the audience's",
            approve,
            joined(own, bound(discharge(key=CAVEAT_KEY), own)),
        ),
        "approve-other": Case(
            OVER,
            "for another tool",
            approve,
            joined(other, bound(discharge(third_party=OTHER_PARTY, key=MINT_KEY), other)),
        ),
        "approve-pattern": Case(OVER, "a pattern", {"approve": ["orders.*"]}),
        "approve-no-such-tool": Case(YES, "of other tools", {"approve": ["orders.put"]}),
    }


def orders() -> dict[str, Case]:
    """SPEC 20.5: when each is judged."""
    none, killed = {"rules": [MOST]}, {"epoch": {"kills": {"session:s-aaaabbbbccccdddd": 9}}}
    unseen = {"tool": "orders.refund", "args": {}, "http": {"method": "POST", "target": "/o", "body": None}}
    anything = {"rules": [{"tool": "orders.refund"}]}
    elsewhere = {"net": ["198.51.100.0/24"]}
    return {
        "after-arguments": Case(
            "argument_not_allowed",
            "the token refuses first",
            none,
            mint({"allow": [{"args": {"amount": {"max": 20}}, "tool": "orders.refund"}]}),
            refund(101),
        ),
        "after-network": Case("network_not_allowed", "as it does here", elsewhere, after({"net": ["10.0.0.0/8"]})),
        "network-before-tool": Case(OVER, "a network is judged before the tool", elsewhere, mint(), {"tool": "a.b"}),
        "before-approval": Case(
            OVER, "an approval would not help", none, requiring(after(), THIRD_PARTY, MINT_KEY), refund(101)
        ),
        "before-kill": Case(OVER, "before the kill epoch", none, request=refund(101), more=killed),
        "unseen": Case("request_unseen", "the body may have the amount", none, request=unseen),
        "unseen-open": Case(YES, "whatever the body has", anything, request=unseen),
        "unseen-wrong": Case(OVER, "no body would help", none, request=unseen | {"args": {"amount": 101}}),
    }
