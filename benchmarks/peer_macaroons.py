# SPDX-License-Identifier: Apache-2.0
"""The same work with macaroons in Python: pymacaroons, and macaroonbakery, which stands on it.

No proof of a call, no kills, no refused repetition, no record.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pymacaroons  # type: ignore[import-untyped]
from macaroonbakery import bakery, checkers  # type: ignore[import-untyped]
from pymacaroons import MACAROON_V2

from benchmarks.measure import Batch, repeated
from benchmarks.world import ARGS, KEY

OPERATION = bakery.Op("orders", "refund")
PLAIN = ["audience orders", "task t-1", "expires 2099-01-01", "tool orders.refund", "to acme/worker"]


def predicates(limit: int) -> list[str]:
    """Five restrictions of one call."""
    return ["order o-4711", f"amount 0-{limit}", "region eu,us", "path /data/", "note 100"]


def chain(hops: int) -> list[str]:
    """The mint's restrictions and those of each delegation."""
    return [said for limit in (1000, *(900 - hop for hop in range(hops))) for said in predicates(limit)]


class Pymacaroons:
    """A macaroon with these predicates."""

    def __init__(self, said: Sequence[str]) -> None:
        self.said = said
        self.text = str(self._make().serialize())

    def _make(self) -> Any:
        token = pymacaroons.Macaroon("acme", "token-1", KEY, version=MACAROON_V2)
        for predicate in self.said:
            token.add_first_party_caveat(predicate)
        return token

    def decide(self) -> Batch:
        """Text in, decision out; each predicate is met by the cheapest checker there is, an exact one."""

        def work() -> None:
            checker = pymacaroons.Verifier()
            for predicate in self.said:
                checker.satisfy_exact(predicate)
            assert checker.verify(pymacaroons.Macaroon.deserialize(self.text), KEY)

        return repeated(work)

    def delegate(self, said: Sequence[str]) -> Batch:
        """Text in, text with more predicates out."""

        def work() -> None:
            token = pymacaroons.Macaroon.deserialize(self.text)
            for predicate in said:
                token.add_first_party_caveat(predicate)
            assert token.serialize()

        return repeated(work)

    def mint(self) -> Batch:
        """A new macaroon, to text."""
        return repeated(lambda: self._make().serialize())


class Bakery:
    """A bakery's macaroon: an operation, an expiry, and conditions that registered checkers look at."""

    def __init__(self, said: Sequence[str]) -> None:
        looking = checkers.Checker()
        looking.namespace().register("orders", "")
        for name in {*(condition.partition(" ")[0] for condition in said)} - {"expires"}:
            looking.register(name, "orders", _check)
        self._bakery = bakery.Bakery(location="acme", key=bakery.generate_key(), checker=looking)
        self._caveats = [checkers.Caveat(condition, namespace="orders") for condition in said if _ours(condition)]
        self.text = str(self._make().macaroon.serialize())

    def _make(self) -> Any:
        expiry = datetime.now(UTC) + timedelta(hours=1)
        return self._bakery.oven.macaroon(bakery.LATEST_VERSION, expiry, self._caveats, [OPERATION])

    def decide(self) -> Batch:
        """Text in, decision out."""

        def work() -> None:
            token = pymacaroons.Macaroon.deserialize(self.text)
            found = self._bakery.checker.auth([[token]]).allow(checkers.AuthContext(), [OPERATION])
            assert len(found.macaroons) == 1

        return repeated(work)


def _ours(condition: str) -> bool:
    return not condition.startswith("expires")  # the bakery has its own, `time-before`, in each macaroon


def _check(_context: Any, name: str, said: str) -> str | None:
    """Look at one condition; return what is wrong."""
    value = ARGS.get(name)
    holds = {
        "order": lambda: value == said,
        "amount": lambda: int(said.partition("-")[0]) <= value <= int(said.partition("-")[2]),
        "region": lambda: value in said.split(","),
        "path": lambda: value.startswith(said),
        "note": lambda: len(value) <= int(said),
    }.get(name, lambda: f"{name} {said}" in PLAIN)
    return None if holds() else f"{name} is not {said}"
