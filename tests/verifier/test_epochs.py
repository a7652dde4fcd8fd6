# SPDX-License-Identifier: Apache-2.0
"""The epoch view: what it refuses, in which order it looks, and how it measures time."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import overload

import pytest

from arx_verifier.errors import REASONS
from arx_verifier.revocation.epoch import EpochTable, Lease, UnsafeLocalEpochs, boot_clock
from tests.verifier.epoch_views import Clock, boot, code, table, wall

pytestmark = pytest.mark.spec("10.4")

__all__ = ["boot", "table", "wall"]  # fixtures


@pytest.mark.spec("10.2")
def test_a_live_view_accepts_what_was_born_after_the_kill(table: EpochTable) -> None:
    """A kill ends what was born before it, and nothing born at it or later."""
    assert code(table, "I", 2, "agent:acme") == "revoked"
    assert code(table, "I", 3, "agent:acme") is None
    assert code(table, "I", 0, "agent:acme2") is None


@pytest.mark.spec("10.2")
def test_a_freeze_refuses_whenever_born(table: EpochTable) -> None:
    """A freeze asks for no birth."""
    assert code(table, "I", 5, "realm", "task:t-1") == "frozen"


def test_the_target_is_named_to_people(table: EpochTable) -> None:
    """A refusal says which target it was, and every code is in the table of reasons."""
    refused = table.check("I", 2, ("realm", "agent:acme"))
    assert refused is not None
    assert refused.target == "agent:acme"
    assert refused.code in REASONS


@pytest.mark.spec("10.2", "4.3")
def test_another_history_is_dead_and_an_operator_has_none(table: EpochTable) -> None:
    """A token of another incarnation is revoked; None outlives histories, kills of its targets included."""
    assert code(table, "J", 5) == "revoked"
    assert code(table, None, 5, "realm") is None
    assert code(table, None, 0, "agent:acme") == "revoked"


def test_a_token_from_ahead_is_behind(table: EpochTable) -> None:
    """What this view has not applied yet it cannot judge."""
    assert code(table, "I", 6, "agent:acme") == "behind"


@pytest.mark.parametrize("which", ["boot", "wall"])
def test_either_clock_ends_the_lease(table: EpochTable, boot: Clock, wall: Clock, which: str) -> None:
    """At its deadline the lease is over, by one clock alone."""
    clock = {"boot": boot, "wall": wall}[which]
    clock.now = 1_999
    assert code(table, "I", 5) is None
    clock.now = 2_000
    assert code(table, "I", 5) == "stale"


def test_a_kill_is_reported_before_a_stale_lease(table: EpochTable, boot: Clock) -> None:
    """A known kill is final even when the lease is over; retrying would not help."""
    boot.now = 9_999
    assert code(table, "I", 2, "agent:acme") == "revoked"


@pytest.mark.spec("6.1")
def test_fresh_asks_for_a_later_probe(table: EpochTable) -> None:
    """A lease earned before ``sent_after`` is stale for this token, not for others."""
    assert code(table, "I", 5, sent_after=1_000) is None
    assert code(table, "I", 5, sent_after=1_001) == "stale"


class Hooked(Sequence[str]):
    """Targets whose reading takes a while, in which something happens."""

    def __init__(self, happens: object) -> None:
        self._happens = happens

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return "realm" if isinstance(index, int) else ("realm",)

    def __iter__(self) -> Iterator[str]:
        assert callable(self._happens)
        self._happens()
        yield "realm"


def test_the_clock_is_read_after_the_kills(table: EpochTable, boot: Clock) -> None:
    """A reader held up at the kills beyond its lease must not accept."""
    refused = table.check("I", 5, Hooked(lambda: setattr(boot, "now", 2_000)))
    assert refused is not None
    assert refused.code == "stale"


def test_the_lease_is_read_before_the_kills(table: EpochTable, boot: Clock) -> None:
    """A renewal during a check must not validate kills that were read before it."""

    def renewed() -> None:
        boot.now = 2_500
        table.renew("I", 5, Lease(9_000, 9_000, 2_400))

    refused = table.check("I", 5, Hooked(renewed))
    assert refused is not None
    assert refused.code == "stale"


def test_one_state_is_read(table: EpochTable) -> None:
    """A history replaced during a check is not mixed with the one the check began with."""
    refused = table.check("I", 5, Hooked(lambda: table.adopt("J", 9, {}, {})))
    assert refused is None
    assert code(table, "I", 5) == "syncing"


def test_the_view_reports_its_age(table: EpochTable, boot: Clock) -> None:
    """The age counts from before the probe left; without a lease there is none."""
    boot.now = 1_000 + 7_000_000
    assert table.view() == ("I", 5, 7)
    table.close()
    assert table.view() == ("I", 5, -1)


@pytest.mark.spec("4.2")
def test_time_is_bounded_by_both_clocks(boot: Clock, wall: Clock) -> None:
    """A late wall clock does not make an expired token young: the store's clock counts on."""
    table = EpochTable(boot=boot, wall=wall)
    wall.now = 50_000 * 1_000_000
    assert table.times_ms(50_000) == (50_000, 50_000)
    table.adopt("I", 0, {}, {})
    table.renew("I", 0, Lease(9_000, 9_000, boot.now), 60_000 * 1_000_000)
    boot.now += 3_000 * 1_000_000
    assert table.times_ms(50_000) == (50_000, 63_000)


def test_a_table_alone_waits_for_nothing(table: EpochTable) -> None:
    """Catching up answers at once whether it is so."""
    assert table.catch_up(1_000, 5, 60.0)
    assert not table.catch_up(1_000, 6, 60.0)
    assert not asyncio.run(table.catch_up_async(1_001, 5, 60.0))


def test_the_boot_clock_goes_on() -> None:
    """The default clock counts ns and does not go back."""
    first = boot_clock()
    assert boot_clock() >= first > 0


def test_local_epochs_are_always_live() -> None:
    """Kills and freezes in one process: in force at once, and closed when closed."""
    local = UnsafeLocalEpochs()
    assert code(local, local.incarnation, local.seq, "session:s-1") is None
    local.kill("session:s-1")
    assert code(local, local.incarnation, 0, "session:s-1") == "revoked"
    assert code(local, local.incarnation, local.seq, "session:s-1") is None
    local.freeze("agent:acme", "realm")
    assert code(local, local.incarnation, local.seq, "agent:acme") == "frozen"
    local.thaw("agent:acme", "realm")
    assert code(local, local.incarnation, local.seq, "agent:acme", sent_after=local.boot_ns()) is None
    local.close()
    assert code(local, local.incarnation, local.seq) == "closed"
    local.start()
    assert code(local, local.incarnation, 0, "session:s-1") == "revoked"
