# SPDX-License-Identifier: Apache-2.0
"""Stamps of memory entries, their check against kills and taints, and the laws of derivation.  SPEC 18."""

import os
import time
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import AccessError, RevokedError, SettingsError
from arx_verifier.memory.memory import MAX_SOURCES, Memory
from arx_verifier.memory.stamp import KINDS, MAX_DIGESTS, MAX_GROUPS, MAX_STAMP_CHARS, STAMP_PREFIX, MemoryKeys
from arx_verifier.memory.taints import LATEST_MS, TaintWindow, change_taints, read_window
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import Lease
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token import chain
from arx_verifier.token.caveats import MAX_HOPS
from arx_verifier.token.holder import HolderKey
from arx_verifier.token.wire import bytes_of, text_of
from arx_verifier.verification.grant import Grant
from tests.support import QUICK

pytestmark = pytest.mark.spec("18")

KEYS = MemoryKeys({"memory.1": os.urandom(32)})
ANN = ("https://idp.example", "ann")


class World:
    """A realm with a memory."""

    def __init__(self) -> None:
        self.realm = UnsafeTestRealm("memory")
        self.epochs = self.realm.epochs
        self.memory = Memory(KEYS, self.epochs, self.realm.decisions)

    def grant(self, agent: str = "acme/research", to: str | None = None, **about: Any) -> Grant:
        """The grant of a call that writes or reads."""
        caller = self.realm.caller(Rule(tool="memory.*"), agent=agent, **about)
        if to is not None:
            caller = caller.delegate(to)
        request = AccessRequest("memory.write", {}, time.time_ns() // 1_000_000, None)
        return self.realm.verifier.verify(caller.token("memory.write"), request)

    def status(self, stamp: str | None, content: str = "x") -> str:
        """The status of a check."""
        return self.memory.check(stamp, content).status


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.spec("18.2")
def test_a_stamp_names_who_wrote_what_and_under_which_decision(world: World) -> None:
    """
    A check returns the writer, the delegation, the decision and the birth of the token, authenticated.
    """
    grant = world.grant(to="acme/worker", subject=ANN)
    stamp = world.memory.stamp(grant, "the price is 5", kind="tool")
    verdict = world.memory.check(stamp, "the price is 5")
    assert (verdict.status, verdict.why) == ("trusted", "")
    assert verdict.stamp is not None
    by = verdict.stamp.by
    assert (by.agent, by.named, by.session, by.task) == ("acme/research", ("acme/worker",), "s-test", "t-test")
    assert [text_of(link) for link in by.links] == [grant.facts.token, *grant.facts.links]
    assert (verdict.stamp.decision, verdict.stamp.kind) == (grant.decision, "tool")
    assert (verdict.stamp.incarnation, verdict.stamp.born) == grant.born
    assert 150 < len(bytes_of(stamp.removeprefix(STAMP_PREFIX))) < 260


@pytest.mark.spec("18.2", "18.4")
def test_the_holder_of_a_bound_task_stamps(world: World) -> None:
    """
    Its signed delegation is in the stamp as a bearer's is; a taint of the link reaches what it wrote.
    """
    worker = HolderKey.generate()
    caller = world.realm.caller(Rule(tool="memory.*"), agent="acme/research", key=HolderKey.generate())
    caller = caller.delegate("acme/worker", key=worker)
    request = AccessRequest("memory.write", {}, time.time_ns() // 1_000_000, None)
    grant = world.realm.verifier.verify(caller.token("memory.write"), request)
    stamp = world.memory.stamp(grant, "x")
    found = world.memory.check(stamp, "x").stamp
    assert found is not None
    assert (found.by.named, grant.facts.holders[-1].key) == (("acme/worker",), worker.public)
    assert [text_of(link) for link in found.by.links] == [grant.facts.token, *grant.facts.links]
    assert world.status(stamp) == "trusted"
    world.epochs.freeze(f"link:{grant.facts.links[-1]}")
    assert world.status(stamp) == "tainted"


@pytest.mark.spec("18.2")
def test_every_other_byte_is_forged(world: World) -> None:
    """
    Another content, another key of that id, and each flipped bit of the stamp is forged or of an unknown key.
    """
    stamp = world.memory.stamp(world.grant(), "x")
    assert world.status(stamp, "y") == "forged"
    other = Memory(MemoryKeys({"memory.1": os.urandom(32)}), world.epochs)
    assert other.check(stamp, "x").status == "forged"
    raw = bytes_of(stamp.removeprefix(STAMP_PREFIX))
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1
        assert world.status(STAMP_PREFIX + text_of(bytes(changed))) in ("forged", "unknown"), place


@pytest.mark.parametrize("text", ["", "x", STAMP_PREFIX, STAMP_PREFIX + "A" * 99, STAMP_PREFIX + "A" * MAX_STAMP_CHARS])
@pytest.mark.spec("18.2")
def test_what_is_no_stamp_is_forged(world: World, text: str) -> None:
    """
    A text that is no stamp is forged; an entry without one is unknown.
    """
    assert world.status(text) == "forged"
    assert world.status(None) == "unknown"


@pytest.mark.spec("18.1")
def test_a_writer_has_nothing_to_stamp_with(world: World) -> None:
    """
    Grant, token and stamp of a writer make no other stamp: moved to another content, or sealed with them, it is forged.
    """
    grant = world.grant()
    stamp = world.memory.stamp(grant, "x")
    assert world.status(stamp, "y") == "forged"
    payload = bytes_of(stamp.removeprefix(STAMP_PREFIX))[32:]
    for key in (sha256(grant.token.encode()).digest(), bytes_of(stamp.removeprefix(STAMP_PREFIX))[:32], payload[:32]):
        assert world.status(STAMP_PREFIX + text_of(chain.extend(key, payload) + payload)) == "forged"


@pytest.mark.spec("18.3")
def test_an_unknown_key_is_unknown_and_an_older_one_still_checks(world: World) -> None:
    """
    After a change of keys the newest one stamps, and entries of the older ones are checked for as long as it is there.
    """
    first, second = os.urandom(32), os.urandom(32)
    old = Memory(MemoryKeys({"memory.9": first}), world.epochs)
    both = Memory(MemoryKeys({"memory.9": first, "memory.10": second}), world.epochs)
    before, after = old.stamp(world.grant(), "x"), both.stamp(world.grant(), "x")
    assert both.check(before, "x").status == both.check(after, "x").status == "trusted"
    assert old.check(after, "x").status == "unknown"
    world.epochs.freeze("key:memory.9")
    assert both.check(before, "x").target == "key:memory.9"
    assert both.check(after, "x").status == "trusted"


@pytest.mark.parametrize("keys", [{}, {"memory.1": b"short"}, {"memory": bytes(32)}])
def test_unusable_keys_are_refused(keys: dict[str, bytes]) -> None:
    """
    A memory without keys, or with one of another length or id, does not start.
    """
    with pytest.raises(SettingsError):
        MemoryKeys(keys)


@pytest.mark.parametrize(
    "target",
    ["realm", "agent:acme", "agent:acme/research", "agent:acme/worker", "session:s-test", "task:t-test", "subject"],
)
@pytest.mark.spec("18.4")
def test_a_frozen_target_taints_what_was_written(world: World, target: str) -> None:
    """
    What is traced to a frozen target is tainted by it, and after the thaw no more; what another agent wrote never.
    """
    stamp = world.memory.stamp(world.grant(to="acme/worker", subject=ANN), "x")
    other = world.memory.stamp(world.grant("other/agent", session="s-b", task="t-b"), "x")
    if target == "subject":
        target = next(each for each in world.memory.check(stamp, "x").stamp.targets if each.startswith("subject:"))  # type: ignore[union-attr]
    world.epochs.freeze(target)
    verdict = world.memory.check(stamp, "x")
    assert (verdict.status, verdict.target, verdict.since) == ("tainted", target, 0)
    assert world.status(other) == ("tainted" if target == "realm" else "trusted")
    world.epochs.thaw(target)
    assert world.status(stamp) == "trusted"


@pytest.mark.spec("18.4")
def test_the_end_of_a_session_taints_nothing(world: World) -> None:
    """
    A kill alone is the ordinary end of a session or a task: only a taint makes its entries untrusted.
    """
    stamp = world.memory.stamp(world.grant(), "x")
    world.epochs.kill("session:s-test", "task:t-test")
    assert world.status(stamp) == "trusted"
    world.epochs.freeze(str(TaintWindow("session:s-test")))
    assert world.memory.check(stamp, "x").target == "session:s-test"


@pytest.mark.spec("18.4")
def test_a_window_taints_what_was_written_in_it(world: World) -> None:
    """
    Only entries between the taint's times are tainted.
    """
    stamp = world.memory.stamp(world.grant(), "x")
    now = time.time_ns() // 1_000_000
    hour = 3_600_000
    before = TaintWindow("agent:acme/research", 0, now - hour)
    after = TaintWindow("agent:acme/research", now + hour)
    world.epochs.freeze(str(before), str(after))
    assert world.status(stamp) == "trusted"
    world.epochs.freeze(str(TaintWindow("agent:acme/research", now - hour, now + hour)))
    assert world.memory.check(stamp, "x")[:3] == ("tainted", "agent:acme/research", now - hour)


@pytest.mark.spec("18.4")
def test_a_narrowed_freeze_is_whole_again_after_another_kill(world: World) -> None:
    """
    A taint without an end that is younger than the freeze narrows it; a later kill taints all again.
    """
    stamp = world.memory.stamp(world.grant(), "x")
    agent = "agent:acme/research"
    world.epochs.freeze(agent)
    later = TaintWindow(agent, time.time_ns() // 1_000_000 + 3_600_000)
    world.epochs.freeze(str(later))
    assert world.status(stamp) == "trusted"
    world.epochs.freeze(agent)
    assert world.status(stamp) == "tainted"


@pytest.mark.spec("18.5")
def test_without_a_current_view_nothing_is_trusted(world: World) -> None:
    """
    Closed, stale or behind the entry: unknown; tainted and forged entries stay what they are.
    """
    stamp = world.memory.stamp(world.grant(), "x")
    world.epochs.close()
    assert world.status(stamp) == "unknown"
    assert world.status(stamp, "y") == "forged"
    world.epochs.start()
    assert world.status(stamp) == "trusted"
    state = world.epochs._state
    ended = Lease(0, 0, 0)
    assert world.epochs.renew(state.incarnation, state.applied, ended)
    assert world.memory.check(stamp, "x").why.startswith("the lease")


@pytest.mark.spec("18.5")
@pytest.mark.parametrize(("times", "status"), [(0, "trusted"), (1, "tainted"), (99, "unknown")])
def test_a_taint_that_comes_during_the_check_counts(
    world: World, times: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A lease that was earned with a taint, after the entry was judged, does not make it trusted; a view that changes all
    the time says nothing.
    """
    stamp = world.memory.stamp(world.grant(), "x")
    checked, changes = world.epochs.check, iter(range(times))

    def check(*asked: Any) -> Any:
        for number in changes:
            world.epochs.freeze("agent:acme/research" if times == 1 else f"agent:other/a{number}")
            break
        return checked(*asked)

    monkeypatch.setattr(world.epochs, "check", check)
    assert world.status(stamp) == status


@pytest.mark.spec("18.5")
def test_a_view_behind_the_entry_is_unknown(world: World) -> None:
    """
    A view that lacks the birth of the writer's token may lack an older taint.
    """
    older = World()
    world.epochs.kill("agent:other")
    stamp = world.memory.stamp(world.grant(), "x")
    older.epochs.adopt(world.epochs.incarnation, 0, {}, {})
    older.epochs._live()
    assert "behind" in older.memory.check(stamp, "x").why


@pytest.mark.spec("18.5")
def test_another_history_counts_once_a_token_of_it_was_seen(world: World) -> None:
    """
    After a store began a new history, older entries are unknown until a token of it shows that all freezes are back.
    """
    stamp = world.memory.stamp(world.grant(), "x")
    world.epochs.adopt("another", 7, {}, {})
    world.epochs._live()
    assert "earlier history" in world.memory.check(stamp, "x").why
    reader = world.grant("acme/reader")
    assert world.memory.trusted([("entry", stamp, "x")], reader) == ["entry"]


@pytest.mark.spec("18.2")
def test_a_revoked_writer_gets_no_stamp(world: World) -> None:
    """
    A grant that was killed after its decision stamps nothing, and reads nothing.
    """
    grant = world.grant()
    stamp = world.memory.stamp(grant, "x")
    world.epochs.kill("agent:acme/research")
    with pytest.raises(RevokedError):
        world.memory.stamp(grant, "x")
    with pytest.raises(RevokedError):
        world.memory.trusted([("entry", stamp, "x")], grant)


@pytest.mark.spec("18.6")
def test_a_source_must_be_stamped(world: World) -> None:
    """
    A forged source, or one of an unknown key, makes no derived entry.
    """
    stamp = world.memory.stamp(world.grant(), "x")
    for source in (stamp[:-4] + "AAAA", "x", ""):
        with pytest.raises(AccessError, match="withheld") as refused:
            world.memory.stamp(world.grant(), "y", sources=[stamp, source])
        assert refused.value.code == "withheld"
        assert refused.value.failures[0].place == "source 2"


@pytest.mark.spec("18.6")
def test_a_derived_entry_is_tainted_with_its_source(world: World) -> None:
    """
    A summary of a summary names the sources of both, and is tainted by the writer of the first.
    """
    first = world.memory.stamp(world.grant("acme/a", session="s-a", task="t-a"), "x")
    second = world.memory.stamp(world.grant("acme/b", session="s-b", task="t-b"), "y", sources=[first])
    third = world.memory.stamp(world.grant("acme/c", session="s-c", task="t-c"), "z", sources=[second])
    world.epochs.freeze(str(TaintWindow("session:s-a")))
    assert [world.status(stamp, text) for stamp, text in zip((first, second, third), "xyz", strict=True)] == [
        "tainted"
    ] * 3
    assert world.memory.check(third, "z").target == "session:s-a"


@pytest.mark.spec("18.6")
def test_the_kind_is_never_above_the_weakest_source(world: World) -> None:
    """
    Of each pair of kinds the lower one is the result.
    """
    grant = world.grant()
    for own in KINDS:
        for of in KINDS:
            source = world.memory.stamp(grant, "x", kind=of)
            found = world.memory.check(world.memory.stamp(grant, "y", kind=own, sources=[source]), "y").stamp
            assert found is not None
            assert found.kind == max(own, of, key=KINDS.index)
    with pytest.raises(ValueError, match="unknown kind"):
        world.memory.stamp(grant, "x", kind="root")  # type: ignore[arg-type]


AGENTS = [f"acme/a{n}" for n in range(6)]
TARGETS = [*(f"agent:{agent}" for agent in AGENTS), *(f"session:s-{n}" for n in range(12)), "agent:acme", "realm"]


class Entries:
    """Entries that agents wrote, some of them derived from earlier ones, with what each was derived from."""

    def __init__(self, world: World, plan: list[tuple[int, int, list[int]]]) -> None:
        self.world = world
        self.stamps: list[str] = []
        self.traced: list[set[str]] = []
        for agent, session, sources in plan:
            grant = world.grant(AGENTS[agent], session=f"s-{session}", task=f"t-{session}")
            of = sorted({source % len(self.stamps) for source in sources}) if self.stamps else []
            self.stamps.append(world.memory.stamp(grant, "x", sources=[self.stamps[n] for n in of]))
            own = {"realm", "agent:acme", f"agent:{AGENTS[agent]}", f"session:s-{session}"}
            self.traced.append(own.union(*(self.traced[n] for n in of)))

    def tainted(self) -> list[bool]:
        """Which of them are tainted now."""
        return [self.world.status(stamp) == "tainted" for stamp in self.stamps]


PLANS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 11), st.lists(st.integers(0, 99), max_size=4)), min_size=1, max_size=8
)


@given(PLANS, st.lists(st.sampled_from(TARGETS), max_size=4))
@QUICK
@pytest.mark.spec("18.6")
def test_an_entry_is_tainted_if_and_only_if_a_tainted_target_is_behind_it(
    plan: list[tuple[int, int, list[int]]], frozen: list[str]
) -> None:
    """
    Derivation loses no target and adds none; each further taint only adds tainted entries.
    """
    entries = Entries(World(), plan)
    before = entries.tainted()
    assert not any(before)
    for place, target in enumerate(frozen, 1):
        entries.world.epochs.freeze(str(TaintWindow(target)))
        after = entries.tainted()
        assert after == [not traced.isdisjoint(frozen[:place]) for traced in entries.traced]
        assert all(new >= old for old, new in zip(before, after, strict=True))
        before = after


@pytest.mark.spec("18.7")
def test_many_sources_are_folded_and_no_taint_is_lost() -> None:
    """
    A summary that is written again and again stays bounded; it is tainted by each agent and each session of its past.
    """
    world = World()
    summary: list[str] = []
    for n in range(3 * MAX_GROUPS):
        grant = world.grant(AGENTS[n % 6], session=f"s-{n}", task=f"t-{n}")
        summary = [world.memory.stamp(grant, "x", sources=[*summary, world.memory.stamp(grant, "y")])]
    assert len(summary[0]) < MAX_STAMP_CHARS / 2
    assert world.status(summary[0]) == "trusted"
    for target in ("session:s-0", f"session:s-{3 * MAX_GROUPS - 1}", "agent:acme/a3", "task:t-1"):
        taint = str(TaintWindow(target))
        world.epochs.freeze(taint)
        assert world.status(summary[0]) == "tainted", target
        world.epochs.thaw(taint)
    world.epochs.freeze("key:memory.1")
    assert world.memory.check(summary[0], "x").status == "tainted"
    world.epochs.thaw("key:memory.1")
    outside = str(TaintWindow("session:s-elsewhere", 0, 1))
    world.epochs.freeze(outside)
    assert world.status(summary[0]) == "trusted"  # a fold keeps the times of what it folded


@pytest.mark.spec("18.6")
def test_many_sources_of_one_task_stay_apart_from_others() -> None:
    """
    What was derived from more entries of a task than there may be groups is tainted by that task, and by no other.
    """
    world = World()
    grant, sources = world.grant(session="s-1", task="t-1"), dict[int, str]()
    while len(sources) < 2 * MAX_GROUPS:  # each at a time of its own
        sources[time.time_ns() // 1_000_000] = world.memory.stamp(grant, "y")
    summary = world.memory.stamp(world.grant("acme/other", session="s-2"), "x", sources=list(sources.values()))
    for target, status in (("session:s-9", "trusted"), ("session:s-1", "tainted"), ("task:t-1", "tainted")):
        world.epochs.freeze(target)
        assert world.status(summary) == status, target
        world.epochs.thaw(target)


@pytest.mark.spec("18.7")
def test_a_fold_of_too_many_agents_is_tainted_by_every_taint_of_its_time() -> None:
    """
    Past the bound of digests not even agents are kept apart: more is tainted, never less.
    """
    world = World()
    stamps: list[str] = []
    for n in range(MAX_DIGESTS + 40):
        grant = world.grant(f"deep/p{n}", session=f"s-{n}", task=f"t-{n}")
        stamps.append(world.memory.stamp(grant, "y"))
    first = world.memory.stamp(world.grant(), "x", sources=stamps[:200])
    last = world.memory.stamp(world.grant(), "x", sources=[first, *stamps[200:]])
    assert len(last) < MAX_STAMP_CHARS
    world.epochs.freeze("agent:not/there")
    assert world.status(last) == "tainted"


@pytest.mark.spec("18.2")
def test_no_stamp_is_made_that_a_check_cannot_read(world: World) -> None:
    """
    The sources of the longest chain do not fit into a stamp with 256 digests: refused at the write, and fewer fit.
    """
    caller = world.realm.caller(Rule(tool="memory.*"), agent="acme/research", depth=MAX_HOPS)
    for n in range(MAX_HOPS):
        caller = caller.delegate(f"acme/{n:059d}")
    request = AccessRequest("memory.write", {}, time.time_ns() // 1_000_000, None)
    grant = world.realm.verifier.verify(caller.token("memory.write"), request)
    sources = [
        world.memory.stamp(world.grant(f"p{n}/a/b/c/d/e", session=f"s-{n}", task=f"t-{n}"), "x")
        for n in range(MAX_SOURCES)
    ]
    with pytest.raises(ValueError, match="too many sources"):
        world.memory.stamp(grant, "y", sources=sources)
    assert world.status(world.memory.stamp(grant, "y", sources=sources[:100]), "y") == "trusted"


@pytest.mark.spec("18.8")
def test_what_is_withheld_is_recorded_by_reason(world: World) -> None:
    """
    One record says of a retrieval how many entries were withheld from whom, why, and which.
    """
    poisoned = [world.memory.stamp(world.grant("acme/bad", session="s-b", task="t-b"), "x") for _ in range(3)]
    good = world.memory.stamp(world.grant("acme/good"), "x")
    world.epochs.freeze("agent:acme/bad")
    reader = world.grant("acme/reader", session="s-r", task="t-r")
    entries = [
        ("good", good, "x"),
        *(("bad", stamp, "x") for stamp in poisoned),
        ("none", None, "x"),
        ("odd", good, "y"),
    ]
    assert world.memory.trusted(entries, reader) == ["good"]
    record = world.realm.decisions.decisions[-1]
    assert (record.code, record.outcome, record.session, record.tool) == ("withheld", "deny", "s-r", "memory.write")
    texts = [str(failure) for failure in record.failures]
    assert len(texts) == 3
    assert texts[0].startswith("each entry must be trusted (memory), got 3 tainted by agent:acme/bad: ")
    assert all(world.memory.check(stamp, "x").stamp.id in texts[0] for stamp in poisoned)  # type: ignore[union-attr]
    assert texts[1:] == [
        "each entry must be trusted (memory), got 1 unknown (the entry has no stamp)",
        "each entry must be trusted (memory), got 1 forged (no memory service of this realm stamped this content)",
    ]


def test_nothing_is_recorded_when_all_is_trusted(world: World) -> None:
    """
    A retrieval of trusted entries leaves the record of its call alone.
    """
    good = world.memory.stamp(world.grant("acme/good"), "x")
    reader = world.grant()
    count = len(world.realm.decisions.decisions)
    assert world.memory.trusted([(1, good, "x")], reader) == [1]
    assert len(world.realm.decisions.decisions) == count


TIMES = st.integers(0, LATEST_MS)


@given(st.sampled_from(TARGETS), TIMES, st.none() | TIMES)
@QUICK
@pytest.mark.spec("18.4")
def test_a_taint_has_one_text(target: str, since: int, until: int | None) -> None:
    """
    A window is read from its own text, and from no other one.
    """
    window = TaintWindow(target, since, until)
    assert read_window(str(window)) == window
    assert len(str(window)) <= 96
    for text in (str(window)[:-1], str(window) + "A", str(window).replace("memory:", "m:"), str(window)[:-1] + "="):
        assert read_window(text) != window


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 60), st.booleans(), st.none() | st.integers(0, 60))
@QUICK
@pytest.mark.spec("18.4")
def test_a_thaw_keeps_the_taint_of_a_killed_target_and_moves_its_beginning(
    frozen_at: int, thawed_at: int, written: int, narrowed: bool, since: int | None
) -> None:
    """
    After the thaw, what was written before it is tainted, from the time on that the operator gave.
    """
    agent = "agent:acme/x"
    freezes = {agent: 5}
    if narrowed:
        freezes[str(TaintWindow(agent, frozen_at))] = 6
    freeze, thaw = change_taints(agent, freezes, since=since, until=thawed_at)
    after = (set(freezes) - {agent} - set(thaw)) | set(freeze)
    windows = [window for text in after if (window := read_window(text)) is not None]
    begins = max(frozen_at if narrowed else 0, since or 0)
    assert any(window.meets(written, written) for window in windows) == (begins <= written < thawed_at)
    assert change_taints(agent, {agent: 5}, until=thawed_at, forget=True) == ([], [])
