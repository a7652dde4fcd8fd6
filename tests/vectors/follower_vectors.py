# SPDX-License-Identifier: Apache-2.0
"""Vectors of following the kill epoch (SPEC 10): scripts of probes, answers, pushed entries and checks.

Each step has the readings of both clocks, ms; the answer to a check is ``ok`` or a reason code.
"""

import hashlib
from typing import Any, Self

Vectors = dict[str, dict[str, Any]]
AT, BOOT = 1_800_000_000_000, 5_000_000
FIRST, SECOND = "aW5jYXJuYXRpb24tMDAwMQ", "aW5jYXJuYXRpb24tMDAwMg"
EARLIER, LATER = "019b00000001earlier-12", "019b00000002later-3456"  # SPEC 10.2: names with an order
NAMES = ("agent:acme/worker", "session:s-1", "realm")
LEASE_MS, KEEP_MS = 1_000, 86_400_000


def chain(before: str, seq: int, op: str, target: str) -> str:
    """SPEC 10.9: the chain after an entry."""
    return hashlib.sha1(f"{before} {seq} {op} {target}".encode(), usedforsecurity=False).hexdigest()


class Store:
    """A history and its entries."""

    def __init__(self, incarnation: str = FIRST, seq: int = 7) -> None:
        self.incarnation, self.seq = incarnation, seq
        self.chains = {seq: chain(incarnation, seq, "rotate", "realm")}
        self.entries: dict[int, list[Any]] = {}

    def add(self, op: str, target: str) -> list[Any]:
        """Add an entry: history, sequence, operation, target."""
        self.seq += 1
        self.chains[self.seq] = chain(self.chains[self.seq - 1], self.seq, op, target)
        self.entries[self.seq] = [self.incarnation, self.seq, op, target]
        return self.entries[self.seq]

    def answer(self, applied: int, at_ms: int, **changes: Any) -> dict[str, Any]:
        """The answer to a probe of a verifier that has applied so much."""
        made = {"status": "OK", "incarnation": self.incarnation, "seq": self.seq, "at": at_ms, "lease_ms": LEASE_MS}
        made |= {"keep_ms": KEEP_MS, "chain": self.chains[self.seq], "age_ns": 0}
        return made | {"entries": [self.entries[n] for n in range(applied + 1, self.seq + 1)]} | changes


class Script:
    """The steps of a vector, and what comes of each."""

    def __init__(self, store: Store | None = None) -> None:
        self.store, self.boot, self.wall = store or Store(), BOOT, AT
        self.steps: list[dict[str, Any]] = []
        self.results: list[Any] = []
        self.place: list[Any] = ["", -1, ""]

    def step(self, result: Any, do: str, **members: Any) -> Self:
        """Add a step."""
        self.steps.append({"do": do, "boot": self.boot, "wall": self.wall} | members)
        self.results.append(result)
        return self

    def after(self, ms: int, wall: int | None = None) -> Self:
        """Move the clocks."""
        self.boot, self.wall = self.boot + ms, self.wall + (ms if wall is None else wall)
        return self

    def connect(self, **several: bool) -> Self:
        """A new connection; perhaps to one of ``several`` relays."""
        return self.step(None, "connect", **several)

    def probe(self) -> Self:
        """A probe leaves, with the place of the last applied entry."""
        return self.step([*self.place], "probe")

    def answer(self, result: str = "taken", place: list[Any] | None = None, **changes: Any) -> Self:
        """The answer comes; ``place`` is where the view then is, if that is not the end of the store's history."""
        applied = self.place[1] if self.place[0] == self.store.incarnation else self.store.seq
        made = self.store.answer(applied, self.wall, **changes)
        self.step(result, "answer", answer=made)
        self.place = place or [self.store.incarnation, self.store.seq, self.store.chains[self.store.seq]]
        return self

    def copied(self, **hashes: dict[str, int]) -> Self:
        """Probe, and get all kills and freezes; then probe again, and get a lease."""
        copy: dict[str, Any] = {"kills": {}, "freezes": {}} | hashes
        self.connect().probe().answer(status="RESYNC", entries=[], **copy)
        return self.check("syncing").probe().answer()

    def push(self, entry: list[Any], result: str = "taken") -> Self:
        """An entry comes by itself."""
        self.step(result, "push", entry=entry)
        if self.place[:2] == [entry[0], entry[1] - 1] and entry[2] != "purge":
            self.place = [entry[0], entry[1], chain(self.place[2], *entry[1:])]
        return self

    def check(
        self,
        expect: str,
        born: int = 7,
        targets: tuple[str, ...] = NAMES,
        *,
        incarnation: str = FIRST,
        fresh: int | None = None,
    ) -> Self:
        """Check a token."""
        token = {"incarnation": incarnation, "born": born, "targets": list(targets), "fresh": fresh}
        return self.step(expect, "check", token=token)

    def close(self) -> Self:
        """Stop following."""
        return self.step(None, "close")

    def vector(self, spec: str, comment: str) -> dict[str, Any]:
        """The vector."""
        return {"comment": comment, "spec": spec, "script": self.steps, "expect": {"steps": self.results}}


def vectors() -> Vectors:
    """All of this file."""
    return leases() | clocks() | pushes() | histories() | relays()


def leases() -> Vectors:
    """SPEC 10.3 to 10.5, 10.7."""
    first = Script().check("syncing").connect().probe().check("syncing")
    first.answer(status="RESYNC", entries=[], kills={}, freezes={}).check("syncing").probe().answer().check("ok")
    ends = Script().copied().after(999).check("ok").after(1).check("stale")
    late = (
        Script()
        .copied()
        .after(300)
        .probe()
        .after(600)
        .answer()
        .check("ok")
        .after(399)
        .check("ok")
        .after(1)
        .check("stale")
    )
    renewed = Script().copied().after(900).probe().answer().after(900).check("ok").after(100).check("stale")
    copied = (
        Script(Store(FIRST, 8))
        .copied(kills={"session:s-1": 8}, freezes={"realm": 3})
        .check("revoked")
        .check("frozen", 8)
    )
    shorter = Script().copied().after(300).probe().answer(lease_ms=200).after(199).check("ok").after(1).check("stale")
    aged = (
        Script().copied().after(300).probe().answer(age_ns=500_000_000).after(498).check("ok").after(1).check("stale")
    )
    fresh = Script().copied().check("ok", fresh=0).after(50).check("stale", fresh=0).check("ok", fresh=50)
    fresh.check("stale", fresh=49).check("ok", fresh=1000)
    behind = (
        Script().copied().check("behind", 8).push(Store().add("kill", "task:t-9")).check("ok", 8).check("behind", 9)
    )
    other = Script().copied().check("revoked", incarnation=SECOND).check("revoked", 99, incarnation=SECOND)
    ended = Script().copied().after(2_000).check("revoked", incarnation=SECOND).check("behind", 9).check("stale")
    killed = Script(Store(FIRST, 8)).copied(kills={"realm": 8}).after(2_000).check("revoked").check("stale", 8)
    stopped = Script().copied().close().check("closed").check("closed", incarnation=SECOND)
    return {
        "lease-first": first.vector("10.5", "no check passes before a copy and a lease"),
        "lease-ends": ends.vector("10.3", "the lease is one second, its end not included"),
        "lease-from-sending": late.vector("10.3", "it counts from when the probe left, not from the answer"),
        "lease-renewed": renewed.vector("10.3", "the next one counts from its own probe"),
        "lease-copied": copied.vector("10.2", "kills and freezes of the copy are in force"),
        "lease-shorter": shorter.vector("10.3", "the realm's lease is shorter"),
        "lease-of-a-relay": aged.vector("10.7", "500 ms old, so 501 ms less"),
        "lease-fresh": fresh.vector("6.1", "`fresh` counts from when the probe left"),
        "lease-behind": behind.vector("10.4", "born above what is applied"),
        "lease-other-history": other.vector("10.2", "born in another history, at whatever number"),
        "lease-order": ended.vector("10.4", "the clocks are read last"),
        "lease-order-killed": killed.vector("10.4", "a kill is one, with a lease or with one that has ended"),
        "lease-closed": stopped.vector("10.5", "after a shutdown nothing passes"),
    }


def clocks() -> Vectors:
    """SPEC 10.4 and 10.5."""
    wall = Script().copied().after(10, 1_000).check("stale").after(10, -2_000).check("ok")
    asleep = Script().copied().after(1_000, 0).check("stale")
    back = Script().copied().after(500, -60_000).check("ok").after(500).check("stale")
    found = {
        "clock-wall-ahead": wall.vector("10.4", "the wall clock ends a lease as well, while it is beyond its end"),
        "clock-boot-ahead": asleep.vector("10.4", "the machine slept, and its wall clock did not move"),
        "clock-wall-back": back.vector("10.4", "a wall clock that was set back lengthens no lease"),
    }
    for name, off, expect in (
        ("ahead", 30_000, "ok"),
        ("behind", -30_000, "ok"),
        ("far-ahead", 30_001, "fenced"),
        ("far-behind", -30_001, "fenced"),
    ):
        script = Script().connect().probe().answer(status="RESYNC", entries=[], kills={}, freezes={}).probe()
        script.answer(at=script.wall + off).check(expect)
        found[f"clock-store-{name}"] = script.vector("10.5", f"the store's clock is off by {off} ms")
    mended = Script().connect().probe().answer(status="RESYNC", entries=[], kills={}, freezes={}).probe()
    mended.answer(at=mended.wall + 40_000).check("fenced").after(300).probe().answer().check("ok")
    return found | {"clock-store-mended": mended.vector("10.5", "once it is right, the view is used again")}


def pushes() -> Vectors:
    """SPEC 10.2, 10.3 and 10.9."""
    store = Store()
    kill = store.add("kill", "session:s-1")
    freeze = store.add("freeze", "realm")
    thaw = store.add("thaw", "realm")
    both = store.add("kill+freeze", "agent:acme/worker")
    one = Script().copied().push(kill).check("revoked").check("ok", 8).after(1_000).check("stale", 8)
    gap = (
        Script().copied().push(freeze).check("frozen").check("behind", 8).push(kill).check("revoked").check("frozen", 8)
    )
    early = Script().copied().push(freeze).push(thaw).check("frozen").push(kill).check("frozen", 8)
    ordered = Script().copied().push(kill).push(freeze).check("frozen", 8).push(thaw).check("ok", 8).check("revoked")
    twice = Script().copied().push(kill).push(kill).check("ok", 8).push(freeze).push(kill).check("frozen", 9)
    joined = Script().copied().push(kill).push(freeze).push(thaw).push(both).check("revoked", 10).check("frozen", 11)
    confirmed = Script(store).copied()
    confirmed.place = [FIRST, 7, Store().chains[7]]
    again = Script(Store()).copied()
    again.store.add("kill", "session:s-1")
    again.after(300).probe().answer().check("revoked").check("ok", 8)
    cut = Script(Store()).copied()
    for number in range(3):
        cut.store.add("kill", f"task:t-{number}")
    part = [cut.store.entries[8], cut.store.entries[9]]
    cut.after(900).probe().answer(entries=part, place=[FIRST, 9, cut.store.chains[9]]).check("ok", 9).check(
        "behind", 10
    )
    cut.after(100).check("stale", 9).probe().answer().check("ok", 10)
    hole = Script(Store()).copied()
    for number in range(2):
        hole.store.add("kill", f"task:t-{number}")
    hole.after(300).probe().answer("dropped", entries=[hole.store.entries[9]], place=hole.place).check("ok").check(
        "behind", 8
    )
    unknown = Script().copied().push([FIRST, 8, "purge", "realm"], "dropped").check("ok").check("behind", 8)
    foreign = Script().copied().push([SECOND, 8, "kill", "realm"]).check("ok").check("behind", 8)
    unasked = Script().copied().answer("dropped").check("ok")
    return {
        "push-kill": one.vector("10.3", "a pushed kill is in force at once, and extends no lease"),
        "push-gap": gap.vector("10.3", "behind a gap a freeze is in force, and its number is not applied"),
        "push-thaw-before-freeze": early.vector("10.3", "a thaw behind a gap waits: the freeze stays"),
        "push-thaw": ordered.vector("10.2", "a thaw ends the freeze, and no kill"),
        "push-twice": twice.vector("10.9", "an entry that was applied changes nothing"),
        "push-kill-and-freeze": joined.vector("10.2", "both at once"),
        "push-missed": again.vector("10.3", "what was not pushed comes with the answer"),
        "push-cut-answer": cut.vector("10.3", "an answer that was cut short gives no lease"),
        "push-hole-in-answer": hole.vector("10.9", "entries with a gap are no answer: the connection is dropped"),
        "push-unknown": unknown.vector("10.2", "an operation that does not exist: the connection is dropped"),
        "push-of-another-history": foreign.vector("10.3", "a message of another history kills nothing here"),
        "push-answer-unasked": unasked.vector("10.3", "an answer without a probe: the connection is dropped"),
    }


def histories() -> Vectors:
    """SPEC 10.5, 10.8, 10.9 and 10.11."""
    forged = Script().copied().after(300).probe().answer(chain="0" * 40, place=[FIRST, 7, ""]).check("fenced")
    forged.place = [FIRST, 7, Store().chains[7]]
    forged.after(300).probe().answer().check("fenced")
    lost = Script().copied().after(300).probe().answer(status="REGRESSED", entries=[]).check("fenced")
    lost.after(300).probe().answer().check("fenced")
    corrupt = Script().copied().after(300).probe().answer(status="CORRUPT", entries=[]).check("fenced")
    mixed = Script().copied()
    place = mixed.place
    mixed.store = Store(SECOND, 20)
    mixed.after(300).probe().answer("dropped", entries=[], place=place).check("ok")
    rotated = Script().copied().after(300).probe()
    rotated.store = Store(SECOND, 20)
    rotated.answer(status="RESYNC", entries=[], kills={}, freezes={}).check("syncing").probe().answer()
    rotated.check("revoked").check("ok", 20, incarnation=SECOND).check("behind", 21, incarnation=SECOND)
    returned = Script().copied()
    old, second = returned.store, Store(SECOND, 20)
    returned.store = second
    returned.after(300).probe().answer(status="RESYNC", entries=[], kills={}, freezes={}).probe().answer()
    returned.store, place = old, returned.place
    returned.after(300).probe().answer(status="RESYNC", entries=[], kills={}, freezes={}, place=place).check("fenced")
    returned.check("fenced", 20, incarnation=SECOND).after(300).probe()
    returned.store = second
    returned.answer().check("ok", 20, incarnation=SECOND).check("revoked")
    shrunk = Script(Store(FIRST, 9)).copied()
    shrunk.store = Store(FIRST, 8)
    shrunk.after(300).probe().answer(status="RESYNC", entries=[], kills={}, freezes={}).check("fenced")
    healed = Script().copied().after(300).probe().answer(status="CORRUPT", entries=[]).check("fenced")
    healed.store = Store(SECOND, 20)
    healed.after(300).probe().answer(status="RESYNC", entries=[], kills={}, freezes={}).check(
        "syncing"
    ).probe().answer()
    healed.check("ok", 20, incarnation=SECOND)
    earlier = Script(Store(LATER, 20)).copied()
    earlier.store, place = Store(EARLIER, 30), earlier.place
    earlier.after(300).probe().answer(status="RESYNC", entries=[], kills={}, freezes={}, place=place).check("fenced")
    kept = Script(Store(FIRST, 8)).copied(kills={"session:s-1": 8}).after(300).probe()
    kept.answer(status="RESYNC", entries=[], kills={}, freezes={}).probe().answer().check("revoked")
    forgotten = (
        Script(Store(FIRST, 8))
        .copied(kills={"session:s-1": 8})
        .after(KEEP_MS)
        .probe()
        .answer()
        .check("revoked")
        .after(300)
    )
    forgotten.probe().answer().check("ok")
    return {
        "history-other-chain": forged.vector("10.9", "the store used a number twice: fenced, in that history for good"),
        "history-lost-entries": lost.vector("10.5", "the store went back: fenced, in that history for good"),
        "history-corrupt": corrupt.vector("10.5", "the store lost entries"),
        "history-mixed": mixed.vector("10.9", "entries of another history are no answer"),
        "history-rotated": rotated.vector("10.2", "the next history ends all tokens of the one before"),
        "history-returned": returned.vector("10.5", "the store returned to a history that had ended"),
        "history-smaller-copy": shrunk.vector("10.5", "a copy of the same history with fewer entries"),
        "history-earlier": earlier.vector("10.5", "the store has a history that is earlier by its name"),
        "history-healed": healed.vector("10.5", "the next history is used"),
        "history-kept-kill": kept.vector(
            "10.10", "a kill that the store has lost stays in force in a view that has it"
        ),
        "history-forgotten": forgotten.vector("10.6", "a kill is forgotten once all tokens that it ends have expired"),
    }


def relays() -> Vectors:
    """SPEC 10.7: what one of several relays answers after the view had a lease from another one."""
    copy: dict[str, Any] = {"status": "RESYNC", "entries": [], "kills": {}, "freezes": {}}
    found = {}
    for name, before, after, comment in (
        ("earlier", LATER, EARLIER, "the relay's history is earlier by its name, and is never copied"),
        ("unknown", FIRST, SECOND, "without an order, it is not copied while the lease lasts"),
    ):
        script = Script(Store(before, 20)).copied()
        script.store, place = Store(after, 30), script.place
        script.after(300).connect(several=True).probe().answer("dropped", **copy, place=place)
        script.check("ok", 20, incarnation=before).after(700).check("stale", 20, incarnation=before)
        script.probe()
        if name == "unknown":
            script.answer(**copy).probe().answer().check("ok", 30, incarnation=after)
        else:
            script.answer("dropped", **copy, place=place).check("stale", 20, incarnation=before)
        found[f"several-{name}"] = script.vector("10.7", comment)
    later = Script(Store(EARLIER, 20)).copied()
    later.store = Store(LATER, 20)
    later.after(300).connect(several=True).probe().answer(**copy).probe().answer()
    later.check("revoked", incarnation=EARLIER).check("ok", 20, incarnation=LATER)
    less = Script(Store(FIRST, 9)).copied()
    place = less.place
    less.store = Store(FIRST, 8)
    less.after(300).connect(several=True).probe().answer("dropped", status="REGRESSED", entries=[], place=place)
    less.store = Store(FIRST, 9)
    less.probe().answer().after(900).check("ok", 9)
    old = Script().copied().after(300).connect(several=True).probe()
    old.answer("dropped", lease_ms=200, age_ns=100_000_001).probe().answer(lease_ms=200, age_ns=100_000_000)
    return found | {
        "several-age": old.vector("10.7", "an answer that is older than half of its lease is not used"),
        "several-later": later.vector("10.7", "the relay's history is later by its name, and is copied at once"),
        "several-less": less.vector("10.7", "the relay has less of the history; the next one has all"),
    }
