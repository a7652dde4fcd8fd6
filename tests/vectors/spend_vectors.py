# SPDX-License-Identifier: Apache-2.0
"""Vectors of budgets (SPEC 17)."""

from typing import Any

from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import ANYTHING, AT, HOP, HOP2, Token, mint

OPENED = AT - 60_000
COSTS: dict[str, Any] = {
    "orders.refund": {"usd": "$amount"},
    "orders.ask": {"usd": {"reserve": "$most"}},
    "orders.get": {"usd": "0.4"},
}
TO: dict[str, Any] = {"hop": HOP, "to": "acme/worker"}


def pool(most: str = "1", unit: str = "usd", name: str = "refund", per: str = "task", opened: Any = OPENED) -> Any:
    """A caveat with a pool."""
    return {"spend": [name, unit, most, per, opened]}


def after(*caveats: Any) -> Token:
    """A token that allows anything, and then these caveats."""
    return mint(ANYTHING, *caveats)


def costing(expect: str, token: Token, why: str, spec: str = "17.4", **more: Any) -> dict[str, Any]:
    """A vector of a service that keeps budgets."""
    return vector(spec, expect, token, why, costs=COSTS, **more)


def refund(amount: Any) -> dict[str, Any]:
    """A call that costs what its argument says."""
    return {"tool": "orders.refund", "args": {} if amount is None else {"amount": amount}}


def vectors() -> Vectors:
    """All of this file."""
    return shapes() | draws() | costs() | histories()


def shapes() -> Vectors:
    """SPEC 17.1 and 17.2."""
    wrong = {
        "short": ({"spend": ["refund", "usd", "1", "task"]}, "no time of opening"),
        "number": (pool(most=1), "an amount is text"),  # type: ignore[arg-type]
        "negative": (pool("-1"), "an amount has no sign"),
        "zeros": (pool("1.50"), "a zero behind"),
        "seven-decimals": (pool("0.0000001"), "seven decimals"),
        "huge": (pool("1000000000.000001"), "above a thousand million"),
        "unit": (pool(unit="USD"), "a unit in upper case"),
        "name": (pool(name="a b"), "a name with a space"),
        "per": (pool(per="week"), "a period that does not exist"),
        "opened": (pool(opened="now"), "a time is an integer"),
    }
    found = {f"spend-{name}": costing("malformed", after(value), why, "17.1") for name, (value, why) in wrong.items()}
    nine = [pool(name=f"p{number}") for number in range(9)]
    return found | {
        "spend-nine": costing("malformed", after(*nine), "nine pools", "17.1"),
        "spend-eight": costing("grant", after(*nine[:8]), "eight pools", "17.1"),
        "spend-largest": costing("grant", after(pool("1000000000")), "the largest pool", "17.2"),
        "spend-smallest": costing("grant", after(pool("0.000001")), "a millionth", "17.2", request=refund("0.0000001")),
    }


def draws() -> Vectors:
    """SPEC 17.3 and 17.4."""
    return {
        "spend-too-much": costing("insufficient_budget", after(pool("0.3")), "0.4 of 0.3"),
        "spend-all": costing("grant", after(pool("0.4")), "0.4 of 0.4"),
        "spend-twice": costing("budget_exhausted", after(pool("0.4")), "nothing is left", times=2),
        "spend-rest": costing("insufficient_budget", after(pool("1")), "0.2 is left after two", times=3),
        "spend-calls": costing("budget_exhausted", after(pool("2", "calls")), "each call costs 1", times=3),
        "spend-every-pool": costing(
            "insufficient_budget", after(pool("1"), TO, pool("0.3", name="worker")), "the worker's pool has less"
        ),
        "spend-pool-above": costing(
            "insufficient_budget", after(pool("0.3"), TO, pool("1", name="worker")), "the mint's pool has less"
        ),
        "spend-wider-again": costing("insufficient_budget", after(pool("0.3"), pool("9")), "the least counts", "17.3"),
        "spend-pool-of-a-hop": costing(
            "grant", after(pool("0.4"), TO | pool("0.4")), "a pool of a link is another one", "17.3"
        ),
        "spend-hops": costing(
            "insufficient_budget",
            after(TO | pool("1"), {"hop": HOP2, "to": "acme/worker/helper"} | pool("0.3")),
            "the helper's pool has less",
            "17.3",
        ),
    }


def costs() -> Vectors:
    """SPEC 17.4: what a call costs."""
    bad = {"none": None, "minus": "-1", "exponent": "1e0", "list": ["1"], "true": True, "word": "all", "huge": 10**10}
    found = {
        f"spend-cost-{name}": costing(
            "argument_not_allowed", after(pool()), "its cost is no amount", request=refund(amount)
        )
        for name, amount in bad.items()
    }
    good = {"text": "0.5", "integer": 1, "fraction": 0.5, "zeros": "0.50", "zero": 0}
    found |= {
        f"spend-cost-{name}": costing("grant", after(pool()), "an amount", request=refund(amount))
        for name, amount in good.items()
    }
    reserve = {"tool": "orders.ask", "args": {"most": "1"}}
    return found | {
        "spend-reserved": costing("budget_exhausted", after(pool()), "reserved", times=2, request=reserve),
        "spend-reserve-nothing": costing(
            "argument_not_allowed", after(pool()), "nothing reserved", request=reserve | {"args": {"most": 0}}
        ),
        "spend-unpriced": costing(
            "budget_unsupported", after(pool()), "no cost is declared", request={"tool": "orders.put"}
        ),
        "spend-no-ledger": vector("17.4", "budget_unsupported", after(pool()), "the service keeps no budgets"),
        "spend-calls-anywhere": costing(
            "grant", after(pool("1", "calls")), "each tool costs a call", request={"tool": "orders.put"}
        ),
    }


def histories() -> Vectors:
    """SPEC 17.5: the ledger began a minute before the call."""
    return {
        "spend-lost": costing("budget_exhausted", after(pool(opened=OPENED - 1)), "before the ledger began", "17.5"),
        "spend-lost-day": costing(
            "budget_exhausted", after(pool(per="day", opened=OPENED - 1)), "so did its day", "17.5"
        ),
        "spend-new-hour": costing(
            "grant", after(pool(per="hour", opened=OPENED - 1)), "but this hour began after that", "17.5"
        ),
        "spend-early": costing("store_unavailable", after(pool(opened=AT + 1)), "opened at a time to come", "17.5"),
        "spend-hour": costing("budget_exhausted", after(pool("0.4", per="hour")), "in one hour", "17.5", times=2),
    }
