# SPDX-License-Identifier: Apache-2.0
"""The same work with biscuit: public-key blocks, each with checks in datalog.

Revocation ids are there and not looked up; no proof of a call, no refused repetition, no record.
"""

from datetime import UTC, datetime, timedelta

from biscuit_auth import AuthorizerBuilder, Biscuit, BiscuitBuilder, BlockBuilder, KeyPair

from benchmarks.measure import Batch, repeated
from benchmarks.world import ARGS, TOOL

PLAIN = (
    'check if audience("orders"); check if task("t-1"); check if time($now), $now <= 2099-01-01T00:00:00Z; '
    'check if tool("orders.refund"); to("acme/worker");'
)
ONLY_TO_AND_EXP = 'to("acme/worker"); check if time($now), $now <= 2099-01-01T00:00:00Z;'


def checks(limit: int) -> str:
    """The five constraints of ``world.constraints``."""
    return (
        f'check if order("o-4711"); check if amount($a), $a >= 0, $a <= {limit}; '
        'check if region($r), ["eu", "us"].contains($r); check if path($p), $p.starts_with("/data/"); '
        "check if note($n), $n.length() <= 100;"
    )


class Blocks:
    """The mint's block, and one for each delegation."""

    def __init__(self, first: str, *more: str) -> None:
        self.keys, self._first = KeyPair(), first
        token = self._make()
        for block in more:
            token = token.append(BlockBuilder(block))
        self.text = token.to_base64()

    def _make(self) -> Biscuit:
        return BiscuitBuilder(self._first).build(self.keys.private_key)

    def decide(self) -> Batch:
        """Text in, decision out."""
        public, names = self.keys.public_key, "; ".join(f"{name}({{{name}}})" for name in ARGS)
        source = names + "; audience({audience}); task({task}); tool({tool}); time({now}); allow if true"

        limits = AuthorizerBuilder().limits()
        limits.max_time = timedelta(
            seconds=1
        )  # its own limit of 1 ms is the clock's, which others on the machine use too

        def work() -> None:
            now = datetime.now(UTC)
            facts = ARGS | {"audience": "orders", "task": "t-1", "tool": TOOL, "now": now}
            token = Biscuit.from_base64(self.text, public)
            authorizer = AuthorizerBuilder(source, facts)
            authorizer.set_limits(limits)
            assert authorizer.build(token).authorize() == 0

        return repeated(work)

    def delegate(self, block: str) -> Batch:
        """Text in, text with one more block out."""
        public = self.keys.public_key
        return repeated(lambda: Biscuit.from_base64(self.text, public).append(BlockBuilder(block)).to_base64())

    def mint(self) -> Batch:
        """A new token, to text."""
        return repeated(lambda: self._make().to_base64())
