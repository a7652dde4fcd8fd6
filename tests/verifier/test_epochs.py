# SPDX-License-Identifier: Apache-2.0
"""The epoch view: what it refuses, in which order it looks, and that it only rises."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import overload

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.epochs import EpochTable, Lease, State, UnsafeLocalEpochs, boot_clock
from arx_verifier.errors import REASONS
from arx_verifier.retention import Retention

SCOPES = ("realm", "agent:acme", "session:s-1", "task:t-1")
OPS = ("kill", "ban", "kill+ban", "lift")


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


def code(table: EpochTable, inc: str | None, born: int, *scopes: str, sent_after: int = 0) -> str | None:
    """The refusal's code, None for an acceptance."""
    refused = table.check(inc, born, scopes, sent_after)
    return None if refused is None else refused.code


def test_a_live_view_accepts_what_was_born_after_the_kill(table: EpochTable) -> None:
    """A floor ends what was born before it, and nothing born at it or later."""
    assert code(table, "I", 2, "agent:acme") == "revoked"
    assert code(table, "I", 3, "agent:acme") is None
    assert code(table, "I", 0, "agent:acme2") is None


def test_a_ban_refuses_whenever_born(table: EpochTable) -> None:
    """A ban asks for no birth."""
    assert code(table, "I", 5, "realm", "task:t-1") == "banned"


def test_the_scope_is_named_to_people(table: EpochTable) -> None:
    """A refusal says which scope it was, and every code is in the table of reasons."""
    refused = table.check("I", 2, ("realm", "agent:acme"))
    assert refused is not None
    assert refused.scope == "agent:acme"
    assert refused.code in REASONS


def test_another_history_is_dead_and_an_operator_has_none(table: EpochTable) -> None:
    """A token of another incarnation is revoked; None outlives histories, kills of its scopes included."""
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


def test_a_kill_is_told_before_a_stale_lease(table: EpochTable, boot: Clock) -> None:
    """A known kill is final even when the lease is over; retrying would not help."""
    boot.now = 9_999
    assert code(table, "I", 2, "agent:acme") == "revoked"


def test_fresh_asks_for_a_later_probe(table: EpochTable) -> None:
    """A lease earned before ``sent_after`` is stale for this token, not for others."""
    assert code(table, "I", 5, sent_after=1_000) is None
    assert code(table, "I", 5, sent_after=1_001) == "stale"


class Hooked(Sequence[str]):
    """Scopes whose reading takes a while, in which something happens."""

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


def test_the_clock_is_read_after_the_floors(table: EpochTable, boot: Clock) -> None:
    """A reader held up at the floors beyond its lease must not accept."""
    refused = table.check("I", 5, Hooked(lambda: setattr(boot, "now", 2_000)))
    assert refused is not None
    assert refused.code == "stale"


def test_the_lease_is_read_before_the_floors(table: EpochTable, boot: Clock) -> None:
    """A renewal during a check must not validate floors that were read before it."""

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


def test_no_lease_before_everything_is_applied(table: EpochTable) -> None:
    """An answer that knows more than the view, or of another history, grants nothing."""
    table.adopt("I", 7, {}, {})
    assert not table.renew("I", 8, Lease(9_000, 9_000, 1_500))
    assert not table.renew("J", 7, Lease(9_000, 9_000, 1_500))
    assert code(table, "I", 7) == "syncing"


def test_a_push_never_touches_the_lease(table: EpochTable, boot: Clock) -> None:
    """Entries that arrive do not extend the time to act on them."""
    boot.now = 1_999
    assert table.apply(6, "kill", "session:s-1")
    boot.now = 2_000
    assert code(table, "I", 6) == "stale"


def test_a_gap_kills_at_once_and_lifts_later(table: EpochTable) -> None:
    """Over missing entries a kill and a ban count, ``applied`` stays, and a lift waits for the log."""
    assert not table.apply(8, "kill+ban", "session:s-1")
    assert not table.apply(9, "lift", "task:t-1")
    assert code(table, "I", 5, "session:s-1") == "revoked"
    assert code(table, "I", 5, "task:t-1") == "banned"
    assert table.view()[1] == 5
    for seq, op, scope in ((6, "kill", "realm"), (7, "lift", "session:s-1"), (8, "kill+ban", "session:s-1")):
        assert table.apply(seq, op, scope)
    assert code(table, "I", 8, "session:s-1") == "banned", "the lift before the ban must not undo it"
    assert table.apply(9, "lift", "task:t-1")
    assert code(table, "I", 9, "task:t-1") is None


def test_an_unknown_operation_is_refused(table: EpochTable) -> None:
    """What a later version may have added cannot be skipped."""
    with pytest.raises(ValueError, match="unknown operation"):
        table.apply(6, "pardon", "realm")


def test_a_store_that_went_back_is_fenced_for_good(table: EpochTable) -> None:
    """A history whose numbers are used twice is over, even when it catches up again; another one is welcome."""
    table.adopt("I", 4, {}, {})
    assert code(table, "I", 5) == "fenced"
    table.adopt("I", 5, {}, {})
    assert not table.renew("I", 5, Lease(9_000, 9_000, 1_500))
    assert code(table, "I", 5) == "fenced"
    table.adopt("J", 0, {}, {})
    assert table.renew("J", 0, Lease(9_000, 9_000, 1_500))
    assert code(table, "J", 0) is None


def test_a_history_never_returns(table: EpochTable) -> None:
    """After a rotation the old incarnation is dead, whatever store comes back with it."""
    table.adopt("J", 6, {}, {})
    table.renew("J", 6, Lease(9_000, 9_000, 1_500))
    table.adopt("I", 50, {}, {})
    assert not table.renew("I", 50, Lease(9_000, 9_000, 1_600))
    assert code(table, "I", 50) == "fenced"


def test_a_fence_without_retirement_is_left_by_a_good_answer(table: EpochTable) -> None:
    """A clock that was set right again needs no new history."""
    table.fence("clocks apart")
    refused = table.check("I", 5, ())
    assert refused is not None
    assert refused.code == "fenced"
    assert refused.detail == "clocks apart"
    assert table.renew("I", 5, Lease(9_000, 9_000, 1_500))
    assert code(table, "I", 5) is None


def test_closed_stays_closed_until_started(table: EpochTable) -> None:
    """No answer that was on its way opens a closed view; a start does not restore the old lease."""
    table.close()
    assert not table.renew("I", 5, Lease(9_000, 9_000, 1_500))
    assert code(table, "I", 5) == "closed"
    table.start()
    assert code(table, "I", 5) == "syncing"
    assert table.renew("I", 5, Lease(9_000, 9_000, 1_500))
    assert code(table, "I", 2, "agent:acme") == "revoked"


def test_a_copy_of_the_same_history_keeps_higher_floors(table: EpochTable) -> None:
    """A floor that was known is never lowered by a copy."""
    table.adopt("I", 6, {"agent:acme": 1, "realm": 6}, {})
    table.renew("I", 6, Lease(9_000, 9_000, 1_500))
    assert code(table, "I", 2, "agent:acme") == "revoked"
    assert code(table, "I", 5, "realm") == "revoked"
    assert code(table, "I", 6, "task:t-1") is None, "bans are the copy's: a lift may have been trimmed from the log"


def test_the_view_tells_its_age(table: EpochTable, boot: Clock) -> None:
    """The age counts from before the probe left; without a lease there is none."""
    boot.now = 1_000 + 7_000_000
    assert table.view() == ("I", 5, 7)
    table.close()
    assert table.view() == ("I", 5, -1)


def test_time_is_bounded_by_both_clocks(boot: Clock, wall: Clock) -> None:
    """A late wall clock does not make an expired token young: the store's clock counts on."""
    table = EpochTable(boot=boot, wall=wall)
    wall.now = 50_000 * 1_000_000
    assert table.times_ms(50_000) == (50_000, 50_000)
    table.adopt("I", 0, {}, {})
    table.renew("I", 0, Lease(9_000, 9_000, boot.now), 60_000 * 1_000_000)
    boot.now += 3_000 * 1_000_000
    assert table.times_ms(50_000) == (50_000, 63_000)


def test_forgetting_spares_what_was_raised_since() -> None:
    """A floor is dropped once it is old, unless the scope was killed again."""
    state = State("I", {"a": 1, "b": 2}, {}, 2)
    retention = Retention()
    retention.restart(10, state)
    state.floors["b"] = 3
    retention.learn(20, "b", 3)
    retention.forget(state, 15)
    assert state.floors == {"b": 3}
    retention.forget(state, 21)
    assert state.floors == {}
    assert len(retention) == 0


def test_many_copied_floors_are_forgotten_in_parts() -> None:
    """A copy of very many floors ends at one time; no call looks at all of them, and none is left in the end."""
    state = State("I", {f"s{index}": index for index in range(25_000)}, {}, 20_000)
    retention = Retention()
    retention.restart(10, state)
    retention.forget(state, 11)
    assert 10_000 < len(state.floors) < 25_000
    retention.forget(state, 11)
    retention.forget(state, 11)
    assert min(state.floors.values()) == 20_001  # what the copy held too early is learned again
    assert len(retention) == 0


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
    """Kills and bans in one process: in force at once, and closed when closed."""
    local = UnsafeLocalEpochs()
    assert code(local, local.inc, local.seq, "session:s-1") is None
    local.kill("session:s-1")
    assert code(local, local.inc, 0, "session:s-1") == "revoked"
    assert code(local, local.inc, local.seq, "session:s-1") is None
    local.ban("agent:acme", "realm")
    assert code(local, local.inc, local.seq, "agent:acme") == "banned"
    local.lift("agent:acme", "realm")
    assert code(local, local.inc, local.seq, "agent:acme", sent_after=local.boot_ns()) is None
    local.close()
    assert code(local, local.inc, local.seq) == "closed"
    local.start()
    assert code(local, local.inc, 0, "session:s-1") == "revoked"


entries = st.lists(st.tuples(st.sampled_from(OPS), st.sampled_from(SCOPES)), min_size=1, max_size=12)


def truth(log: list[tuple[str, str]]) -> tuple[dict[str, int], dict[str, int]]:
    """What the floors and bans are after a whole log, entry by entry."""
    floors: dict[str, int] = {}
    bans: dict[str, int] = {}
    for seq, (op, scope) in enumerate(log, 1):
        if op in ("kill", "kill+ban"):
            floors[scope] = seq
        if op in ("ban", "kill+ban"):
            bans[scope] = seq
        if op == "lift":
            bans.pop(scope, None)
    return floors, bans


@given(entries, st.data())
def test_any_delivery_ends_at_the_truth(log: list[tuple[str, str]], data: st.DataObject) -> None:
    """
    Pushes lost, doubled and in any order, then a copy taken at any place, then the log: the view is the log's, and on
    the way floors and ``applied`` only rise and nothing that the log kills is accepted under a granted lease.
    """
    table = EpochTable(boot=Clock(), wall=Clock())
    table.adopt("I", 0, {}, {})
    numbered = [(seq, op, scope) for seq, (op, scope) in enumerate(log, 1)]
    pushes = data.draw(st.lists(st.sampled_from(numbered), max_size=20))
    copied = data.draw(st.one_of(st.none(), st.integers(0, len(log))))
    deliveries = [*pushes, None, *numbered] if copied is not None else [*pushes, *numbered]
    floors: dict[str, int] = {}
    applied = 0
    for delivery in deliveries:
        if delivery is None and copied is not None and copied >= applied:
            table.adopt("I", copied, *truth(log[:copied]))
        elif delivery is not None:
            table.apply(*delivery)
        state = table._state
        assert state.applied >= applied
        assert all(state.floors[scope] >= floor for scope, floor in floors.items())
        floors, applied = dict(state.floors), state.applied
        if table.renew("I", applied, Lease(9_000, 9_000, 1_000)):
            dead, banned = truth(log[:applied])
            for scope in SCOPES:
                born = max(0, applied - 1)
                refused = code(table, "I", born, scope)
                assert refused is not None or (dead.get(scope, 0) <= born and scope not in banned)
    assert (table._state.floors, table._state.bans) == truth(log)
    assert table._state.applied == len(log)
