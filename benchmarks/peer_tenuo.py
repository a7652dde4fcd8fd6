# SPDX-License-Identifier: Apache-2.0
"""The same work with tenuo: signed warrants, a chain of them, and the last holder's signature of each call.

It looks for no kills, refuses no repeated call and records nothing here.
"""

import time
from typing import Any

import tenuo

from benchmarks.measure import Batch, repeated
from benchmarks.world import ARGS, TOOL, constraints


class Chain:
    """A root warrant and one for each delegation, each with its five constraints."""

    def __init__(self, hops: int) -> None:
        self.root = tenuo.SigningKey.generate()
        self.keys = [tenuo.SigningKey.generate() for _ in range(hops + 2)]
        first = capabilities(1000)
        self.warrants = [
            tenuo.Warrant.issue(self.root, capabilities=first, ttl_seconds=3600, holder=self.keys[0].public_key)
        ]
        for hop in range(hops):
            self.warrants.append(
                self.warrants[-1].attenuate(
                    capabilities(900 - hop),
                    self.keys[hop],
                    ttl_seconds=3000 - hop,
                    holder=self.keys[hop + 1].public_key,
                )
            )
        self.text = str(tenuo.encode_warrant_stack(self.warrants))

    def sign(self) -> bytes:
        """The last holder's proof of the call."""
        return bytes(self.warrants[-1].sign(self.keys[len(self.warrants) - 1], TOOL, ARGS, int(time.time())))

    def decide(self) -> Batch:
        """Text in, decision out; the proof is made anew for each batch, as it is good for half a minute."""
        authorizer = tenuo.Authorizer(trusted_roots=[self.root.public_key])

        def work(signature: bytes) -> None:
            chain = tenuo.decode_warrant_stack_base64(self.text)
            result = authorizer.check_chain(chain, TOOL, ARGS, signature=signature)
            assert result.leaf_depth == len(self.warrants) - 1

        def batch(count: int) -> Any:
            signature = self.sign()
            return repeated(lambda: work(signature))(count)

        return batch

    def delegate(self, limit: int) -> Batch:
        """Text in, text of a narrower warrant for another holder out; a warrant restates what it allows."""
        text, key = self.warrants[-1].to_base64(), self.keys[len(self.warrants) - 1]
        holder, attenuated = self.keys[len(self.warrants)].public_key, capabilities(limit)

        def work() -> None:
            warrant = tenuo.Warrant.from_base64(text)
            assert warrant.attenuate(attenuated, key, ttl_seconds=600, holder=holder).to_base64()

        return repeated(work)

    def mint(self) -> Batch:
        """A root warrant with five constraints, to text."""
        first, holder = capabilities(1000), self.keys[0].public_key
        return repeated(
            lambda: tenuo.Warrant.issue(self.root, capabilities=first, ttl_seconds=3600, holder=holder).to_base64()
        )


def capabilities(limit: int) -> dict[str, Any]:
    """The five constraints of ``world.constraints``."""
    return {
        TOOL: {
            "order": tenuo.Exact("o-4711"),
            "amount": tenuo.Range(0, limit),
            "region": tenuo.OneOf(["eu", "us"]),
            "path": tenuo.Pattern("/data/*"),
            "note": tenuo.Wildcard(),
        }
    }


assert set(constraints(1)) == set(ARGS) == set(capabilities(1)[TOOL])
