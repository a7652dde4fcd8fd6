# SPDX-License-Identifier: Apache-2.0
"""An epoch view with clocks that are moved by hand."""

import pytest

from arx_verifier.revocation.epoch import EpochTable, Lease


class Clock:
    """A clock moved by hand, ns."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def boot() -> Clock:
    return Clock()


@pytest.fixture
def wall() -> Clock:
    return Clock()


@pytest.fixture
def table(boot: Clock, wall: Clock) -> EpochTable:
    """A view of history ``I`` at 5, with a lease until 2,000."""
    table = EpochTable(boot=boot, wall=wall)
    table.adopt("I", 5, {"agent:acme": 3}, {"task:t-1": 4})
    assert table.renew("I", 5, Lease(2_000, 2_000, 1_000))
    return table


def code(table: EpochTable, incarnation: str | None, born: int, *targets: str, sent_after: int = 0) -> str | None:
    """The refusal's code, None for an acceptance."""
    refused = table.check(incarnation, born, targets, sent_after)
    return None if refused is None else refused.code
