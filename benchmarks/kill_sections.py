# SPDX-License-Identifier: Apache-2.0
"""What the kill benchmark measures: how fast a kill is, and that its bound holds."""

import random
import time
from typing import Any, Final

from arx_verifier.revocation.epoch import boot_clock
from benchmarks.kill_child import Child
from benchmarks.kill_stage import BY, SESSION, Stage, freeze, spread, thaw, wait_all
from tests.faults.proxy import Proxy

MS: Final = 1_000_000  # ns
GAP_S: Final = 0.003  # between two kills


def latency(stage: Stage, verifiers: int, kills: int, depth: int = 0) -> dict[str, Any]:
    """Measure kills: in force in each process and in the last, acknowledged as durable, confirmed by all.

    Args:
        stage: Where.
        verifiers: Processes.
        kills: How many.
        depth: Relays between store and verifiers.
    """
    store = stage.realm(1_000)
    with stage.relays(depth) as relays, stage.verifiers(verifiers, relays[-1].url if relays else None) as children:
        began: dict[int, int] = {}
        returned, confirmed = [], []
        for child in children:
            child.say(seen=True)
        for _ in range(kills):
            at = boot_clock()
            bump = store.kill([SESSION], "benchmark", BY)
            returned.append((boot_clock() - at) / MS)
            report = store.wait_confirmed(bump)
            assert report.status == "confirmed", report.summary
            assert report.confirmed == verifiers, report.summary
            confirmed.append(report.took_ms)
            began[bump.header.seq] = at
            time.sleep(GAP_S)
        each, last = _in_force(children, began)
    return {
        "verifiers": verifiers,
        "relays": depth,
        "kills": kills,
        "each_ms": spread(each),
        "last_ms": spread(last),
        "returned_ms": spread(returned),
        "confirmed_ms": spread(confirmed),
        "last_all_ms": [round(one, 3) for one in sorted(last)],
    }


def _in_force(children: list[Child], began: dict[int, int]) -> tuple[list[float], list[float]]:
    """How long after its call each kill was in force, in every process and in the last one, ms."""
    each: list[float] = []
    last = dict.fromkeys(began, 0.0)
    for child in children:
        first: dict[int, int] = {}
        for seq, at in child.say(seen=True):
            first.setdefault(seq, at)
        for seq, at in began.items():
            took = (first[seq] - at) / MS
            each.append(took)
            last[seq] = max(last[seq], took)
    return each, list(last.values())


def frozen_server(stage: Stage, verifiers: int, lease_ms: int, trials: int, depth: int = 0) -> dict[str, Any]:
    """Stop the server: when was the last acceptance, and how long after it goes on do all accept again?"""
    stage.realm(lease_ms)
    pid = stage.server.server_pid
    last, recovered = [], []
    with stage.relays(depth) as relays, stage.verifiers(verifiers, relays[-1].url if relays else None) as children:
        for _ in range(trials):
            stage.watch(children)
            time.sleep(random.uniform(0, lease_ms / 4000))
            stopped = freeze(pid)
            told = wait_all(children, lambda one: one["denied"] > 0)
            last += [(one["last_accepted"] - stopped) / MS for one in told]
            goes_on = thaw(pid)
            told = wait_all(children, lambda one: one["accepted_again"] > 0)
            recovered.append(max((one["accepted_again"] - goes_on) / MS for one in told))
    return {
        "what": "server stopped",
        "verifiers": verifiers,
        "relays": depth,
        "lease_ms": lease_ms,
        "trials": trials,
        "last_accept_ms": spread(last),
        "recovery_ms": spread(recovered),
    }


def broken_link(stage: Stage, lease_ms: int, trials: int, *, one_way: bool) -> dict[str, Any]:
    """Let a link fall silent, then kill: when was the last acceptance after the kill had returned?"""
    store = stage.realm(lease_ms)
    proxy = Proxy(stage.server.data_dir / "valkey.sock")
    last = []
    try:
        with stage.verifiers(1, proxy.url) as children:
            for _ in range(trials):
                stage.watch(children)
                time.sleep(random.uniform(0, lease_ms / 4000))
                proxy.hold(proxy.from_store, *(() if one_way else (proxy.to_store,)))
                store.kill([SESSION], "benchmark", BY)
                killed = boot_clock()
                told = wait_all(children, lambda one: one["denied"] > 0)
                last.append((told[0]["last_accepted"] - killed) / MS)
                proxy.heal()
    finally:
        proxy.close()
    return {
        "what": "answers cut, then a kill" if one_way else "link silent, then a kill",
        "verifiers": 1,
        "relays": 0,
        "lease_ms": lease_ms,
        "trials": trials,
        "last_accept_ms": spread([max(0.0, one) for one in last]),
    }


def no_faults(stage: Stage, verifiers: int, lease_ms: int, seconds: float, depth: int = 0) -> dict[str, Any]:
    """Break nothing: how often is a live token denied, and how much of a lease was left at worst?"""
    stage.realm(lease_ms)
    with stage.relays(depth) as relays, stage.verifiers(verifiers, relays[-1].url if relays else None) as children:
        stage.watch(children, 0.005)
        time.sleep(seconds)
        told = [child.say(tell=True) for child in children]
    return {
        "verifiers": verifiers,
        "relays": depth,
        "lease_ms": lease_ms,
        "seconds": seconds,
        "decisions": sum(one["count"] for one in told),
        "denied": sum(one["denied"] for one in told),
        "least_left_ms": round(min(one["least_left"] for one in told) / MS, 1),
    }
