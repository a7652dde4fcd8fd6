# SPDX-License-Identifier: Apache-2.0
"""What an epoch view makes of entries, copies and answers: it only rises, and never returns to a history it left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.revocation.epoch import EpochState, EpochTable, Lease, Retention
from tests.verifier.epoch_views import Clock, boot, code, table, wall

__all__ = ["boot", "table", "wall"]  # fixtures
TARGETS = ("realm", "agent:acme", "session:s-1", "task:t-1")
OPS = ("kill", "freeze", "kill+freeze", "thaw")


@pytest.mark.spec("10.3")
def test_no_lease_before_everything_is_applied(table: EpochTable) -> None:
    """An answer that knows more than the view, or of another history, grants nothing."""
    table.adopt("I", 7, {}, {})
    assert not table.renew("I", 8, Lease(9_000, 9_000, 1_500))
    assert not table.renew("J", 7, Lease(9_000, 9_000, 1_500))
    assert code(table, "I", 7) == "syncing"


@pytest.mark.spec("10.3")
def test_a_push_never_touches_the_lease(table: EpochTable, boot: Clock) -> None:
    """Entries that arrive do not extend the time to act on them."""
    boot.now = 1_999
    assert table.apply(6, "kill", "session:s-1")
    boot.now = 2_000
    assert code(table, "I", 6) == "stale"


@pytest.mark.spec("10.3")
def test_a_gap_kills_at_once_and_thaws_later(table: EpochTable) -> None:
    """Over missing entries a kill and a freeze count, ``applied`` stays, and a thaw waits for the log."""
    assert not table.apply(8, "kill+freeze", "session:s-1")
    assert not table.apply(9, "thaw", "task:t-1")
    assert code(table, "I", 5, "session:s-1") == "revoked"
    assert code(table, "I", 5, "task:t-1") == "frozen"
    assert table.view()[1] == 5
    for seq, op, target in ((6, "kill", "realm"), (7, "thaw", "session:s-1"), (8, "kill+freeze", "session:s-1")):
        assert table.apply(seq, op, target)
    assert code(table, "I", 8, "session:s-1") == "frozen", "the thaw before the freeze must not undo it"
    assert table.apply(9, "thaw", "task:t-1")
    assert code(table, "I", 9, "task:t-1") is None


def test_an_unknown_operation_is_refused(table: EpochTable) -> None:
    """What a later version may have added cannot be skipped."""
    with pytest.raises(ValueError, match="unknown operation"):
        table.apply(6, "pardon", "realm")


@pytest.mark.spec("10.5")
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


@pytest.mark.spec("10.5")
def test_a_history_never_returns(table: EpochTable) -> None:
    """After a rotation the old incarnation is revoked, whatever store comes back with it."""
    table.adopt("J", 6, {}, {})
    table.renew("J", 6, Lease(9_000, 9_000, 1_500))
    table.adopt("I", 50, {}, {})
    assert not table.renew("I", 50, Lease(9_000, 9_000, 1_600))
    assert code(table, "I", 50) == "fenced"


@pytest.mark.spec("10.5")
def test_a_fence_without_retirement_is_left_by_a_good_answer(table: EpochTable) -> None:
    """A clock that was set right again needs no new history."""
    table.fence("clocks apart")
    refused = table.check("I", 5, ())
    assert refused is not None
    assert refused.code == "fenced"
    assert refused.detail == "clocks apart"
    assert table.renew("I", 5, Lease(9_000, 9_000, 1_500))
    assert code(table, "I", 5) is None


@pytest.mark.spec("10.5")
def test_closed_stays_closed_until_started(table: EpochTable) -> None:
    """No answer that was on its way opens a closed view; a start does not restore the old lease."""
    table.close()
    assert not table.renew("I", 5, Lease(9_000, 9_000, 1_500))
    assert code(table, "I", 5) == "closed"
    table.start()
    assert code(table, "I", 5) == "syncing"
    assert table.renew("I", 5, Lease(9_000, 9_000, 1_500))
    assert code(table, "I", 2, "agent:acme") == "revoked"


@pytest.mark.spec("10.9")
def test_a_copy_of_the_same_history_keeps_higher_kills(table: EpochTable) -> None:
    """A kill that was known is never lowered by a copy."""
    table.adopt("I", 6, {"agent:acme": 1, "realm": 6}, {})
    table.renew("I", 6, Lease(9_000, 9_000, 1_500))
    assert code(table, "I", 2, "agent:acme") == "revoked"
    assert code(table, "I", 5, "realm") == "revoked"
    assert code(table, "I", 6, "task:t-1") is None, "freezes are the copy's: a thaw may have been trimmed from the log"


def test_forgetting_spares_what_was_raised_since() -> None:
    """A kill is dropped once it is old, unless the target was killed again."""
    state = EpochState("I", {"a": 1, "b": 2}, {}, 2)
    retention = Retention()
    retention.restart(10, state)
    state.kills["b"] = 3
    retention.learn(20, "b", 3)
    retention.forget(state, 15)
    assert state.kills == {"b": 3}
    retention.forget(state, 21)
    assert state.kills == {}
    assert len(retention) == 0


def test_many_copied_kills_are_forgotten_in_parts() -> None:
    """A copy of very many kills ends at one time; no call looks at all of them, and none is left in the end."""
    state = EpochState("I", {f"s{index}": index for index in range(25_000)}, {}, 20_000)
    retention = Retention()
    retention.restart(10, state)
    retention.forget(state, 11)
    assert 10_000 < len(state.kills) < 25_000
    retention.forget(state, 11)
    retention.forget(state, 11)
    assert min(state.kills.values()) == 20_001  # what the copy held too early is learned again
    assert len(retention) == 0


entries = st.lists(st.tuples(st.sampled_from(OPS), st.sampled_from(TARGETS)), min_size=1, max_size=12)


def truth(log: list[tuple[str, str]]) -> tuple[dict[str, int], dict[str, int]]:
    """What the kills and freezes are after a whole log, entry by entry."""
    kills: dict[str, int] = {}
    freezes: dict[str, int] = {}
    for seq, (op, target) in enumerate(log, 1):
        if op in ("kill", "kill+freeze"):
            kills[target] = seq
        if op in ("freeze", "kill+freeze"):
            freezes[target] = seq
        if op == "thaw":
            freezes.pop(target, None)
    return kills, freezes


@pytest.mark.spec("10.2")
@given(entries, st.data())
def test_any_delivery_ends_at_the_truth(log: list[tuple[str, str]], data: st.DataObject) -> None:
    """
    Pushes lost, doubled and in any order, then a copy taken at any place, then the log: the view is the log's, and on
    the way kills and ``applied`` only rise and nothing that the log kills is accepted under a granted lease.
    """
    table = EpochTable(boot=Clock(), wall=Clock())
    table.adopt("I", 0, {}, {})
    numbered = [(seq, op, target) for seq, (op, target) in enumerate(log, 1)]
    pushes = data.draw(st.lists(st.sampled_from(numbered), max_size=20))
    copied = data.draw(st.one_of(st.none(), st.integers(0, len(log))))
    deliveries = [*pushes, None, *numbered] if copied is not None else [*pushes, *numbered]
    kills: dict[str, int] = {}
    applied = 0
    for delivery in deliveries:
        if delivery is None and copied is not None and copied >= applied:
            table.adopt("I", copied, *truth(log[:copied]))
        elif delivery is not None:
            table.apply(*delivery)
        state = table._state
        assert state.applied >= applied
        assert all(state.kills[target] >= kill for target, kill in kills.items())
        kills, applied = dict(state.kills), state.applied
        if table.renew("I", applied, Lease(9_000, 9_000, 1_000)):
            dead, frozen = truth(log[:applied])
            for target in TARGETS:
                born = max(0, applied - 1)
                refused = code(table, "I", born, target)
                assert refused is not None or (dead.get(target, 0) <= born and target not in frozen)
    assert (table._state.kills, table._state.freezes) == truth(log)
    assert table._state.applied == len(log)
